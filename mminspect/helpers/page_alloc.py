# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pageblocks and the lists of free pages: ``mm/page_alloc.c``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Object, Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu_ptr

from mminspect.errors import MminspectError
from mminspect.helpers.mmzone import kernel_of, page_zone, pfn_to_online_page
from mminspect.layout.sections import SUBSECTION_SHIFT
from mminspect.memorymap import bitmap, mmzone


def get_pfnblock_migratetype(page: Object, pfn: int) -> int:
    """
    Get the migratetype (``enum migratetype``) of the pageblock that a page is in.

    Follows ``get_pfnblock_migratetype()`` of ``mm/page_alloc.c``: with FLATMEM, the bitmap is that of the zone that the
    page links to; with SPARSEMEM, it is the section's.

    Since Linux kernel commit e904bce2d9d4 ("mm/page_isolation: make page isolation a standalone bit") (in v6.17),
    isolation is a bit of its own and ``MIGRATE_ISOLATE`` is returned where it is set.

    :param page: ``struct page *``
    :param pfn: Its page frame number.
    :raises ValueError: if the index is outside of the bitmap, or there is none. The kernel would read other memory.
    :raises drgn.FaultError: if the bitmap can't be read.
    :raises mminspect.errors.MminspectError: if this kernel's pageblocks aren't known.
    """
    prog = page.prog_
    kernel = kernel_of(prog)
    layout = kernel.memory.layout
    if layout.bits_per_pageblock == 0:
        raise MminspectError("this kernel keeps the types of pageblocks in a way that isn't known")
    if layout.flatmem:
        zone = page_zone(page)
        base, start = zone.pageblock_flags.value_(), int(zone.zone_start_pfn)
        known = next((z for z in kernel.memory.zones if z.address == zone.value_()), None)
        limit = 0 if known is None else bitmap.usemap_size(layout, known)
    else:
        section = kernel.memory.section(pfn)
        base, start = 0 if section is None else section.bitmap, 0
        limit = bitmap.section_usemap_size(layout)
    index = bitmap.pfn_to_bitidx(layout, start, pfn)
    if not base or index >= limit:
        raise ValueError(f"pfn {pfn:#x}: index {index} is outside of a bitmap of {limit if base else 0} bits")
    word = prog.read_word(bitmap.bitmap_word_address(layout, base, index))
    bits = bitmap.pageblock_bits(layout, word, index)
    if layout.isolate_bit and bits & mmzone.PB_MIGRATE_ISOLATE:
        return layout.migratetypes.index("ISOLATE")
    return mmzone.get_pfnblock_migratetype(layout, bits)


def for_each_pageblock(prog: Program) -> Iterator[tuple[int, Object]]:
    """
    Iterate over the pageblocks that have online memory, in ascending order.

    :param prog: The kernel.
    :return: Iterator of (first pfn, ``struct page *`` of its first online page).
    """
    kernel = kernel_of(prog)
    layout = kernel.memory.layout
    nr_pages = layout.pageblock_nr_pages
    step = max(1, (1 << SUBSECTION_SHIFT) // layout.page_size)
    last = -1
    for start, end in sorted(kernel.memory.online_ranges()):
        for block in range(start & -nr_pages, end, nr_pages):
            if block == last:
                continue
            # Part of a block may be a hole.
            for pfn in range(max(block, start), min(block + nr_pages, end), step):
                page = pfn_to_online_page(prog, pfn)
                if page:
                    last = block
                    yield block, page
                    break


def for_each_free_page(zone: Object, order: int, migratetype: int) -> Iterator[Object]:
    """
    Iterate over the blocks on one of a zone's free lists.

    :param zone: ``struct zone *``
    :param order: Each block has 2 to the power of this pages.
    :param migratetype: ``enum migratetype``
    :return: Iterator of ``struct page *``, the first page of each block.
    :raises drgn.FaultError: if the list leads to memory that can't be read.
    """
    area = zone.free_area[order]
    yield from _of_list(area.free_list[migratetype].address_of_())


def for_each_pcp_page(zone: Object) -> Iterator[tuple[int, Object]]:
    """
    Iterate over the free pages on the per-CPU lists of a zone, of all possible CPUs.

    Since Linux kernel commit 28f836b6777b ("mm/page_alloc: split per cpu page lists and zone stats") (in v5.14), the
    lists are in ``zone->per_cpu_pageset``; before, they were in ``zone->pageset``.

    :param zone: ``struct zone *``
    :return: Iterator of (CPU, ``struct page *``, the first page of each block).
    :raises drgn.FaultError: if a list leads to memory that can't be read.
    """
    is_new = zone.type_.type.has_member("per_cpu_pageset")
    for cpu in for_each_possible_cpu(zone.prog_):
        pcp = per_cpu_ptr(zone.per_cpu_pageset, cpu) if is_new else per_cpu_ptr(zone.pageset, cpu).pcp.address_of_()
        for head in pcp.lists:
            for page in _of_list(head.address_of_()):
                yield cpu, page


def _of_list(head: Object) -> Iterator[Object]:
    # Since Linux kernel commit bf75f200569d ("mm/page_alloc: add page->buddy_list and page->pcp_list") (in v6.0), both
    # kinds of lists have names of their own, at the offset of lru.
    yield from list_for_each_entry("struct page", head, "lru")
