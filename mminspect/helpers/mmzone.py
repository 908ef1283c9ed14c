# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Zones and nodes of pages: ``include/linux/mm.h``, ``include/linux/mmzone.h``, ``mm/memory_hotplug.c``.

The widths of the fields in ``page->flags`` are found as a scan finds them: from VMCOREINFO, types and symbols.
"""

from __future__ import annotations

from drgn import NULL, Object, Program
from drgn.helpers.linux.mmzone import NODE_DATA

from mminspect.kernel.kernel import Kernel, from_program
from mminspect.layout.sections import subsection
from mminspect.memorymap import mmzone
from mminspect.memorymap.layout import Layout

_KEY = "mminspect.helpers"


def kernel_of(prog: Program) -> Kernel:
    """
    Get the kernel of a program, opened once.

    :raises mminspect.errors.MminspectError: if it isn't a kernel whose memory map can be read.
    """
    kernel = prog.cache.get(_KEY)
    if kernel is None:
        kernel = prog.cache[_KEY] = from_program(prog)
    assert isinstance(kernel, Kernel)
    return kernel


def _layout(page: Object) -> Layout:
    return kernel_of(page.prog_).memory.layout


def page_flags(page: Object) -> int:
    """
    Get ``page->flags``.

    Since Linux kernel commit 53fbef56e07d ("mm: introduce memdesc_flags_t") (in v6.18), it is a ``memdesc_flags_t``.

    :param page: ``struct page *``
    :raises drgn.FaultError: if the struct page can't be read.
    """
    flags = page.flags
    return int(flags.f.value_() if flags.type_.type_name() == "memdesc_flags_t" else flags.value_())


def page_zonenum(page: Object) -> int:
    """
    Get the zone ID (``enum zone_type``) in a page's flags. It can be one that no zone has.

    Follows ``page_zonenum()`` of ``include/linux/mmzone.h``.

    :param page: ``struct page *``
    :raises drgn.FaultError: if the struct page can't be read.
    """
    return mmzone.page_zonenum(_layout(page), page_flags(page))


def page_to_nid(page: Object) -> int:
    """
    Get the NUMA node of a page. It can be one that doesn't exist.

    Follows ``page_to_nid()`` of ``include/linux/mm.h``. Where the flags have no room for the node
    (``NODE_NOT_IN_PAGE_FLAGS``), it is looked up by the page's section, as ``section_to_node_table`` has it.

    :param page: ``struct page *``
    :raises drgn.FaultError: if the struct page can't be read.
    """
    layout = _layout(page)
    flags = page_flags(page)
    if not layout.flags.node_not_in_page_flags:
        return mmzone.page_to_nid(layout, flags)
    section = flags >> layout.flags.section.shift & (1 << layout.flags.section.width) - 1
    return int(page.prog_["section_to_node_table"][section].value_())


def page_zone(page: Object) -> Object:
    """
    Get the zone that a page links to.

    Follows ``page_zone()`` of ``include/linux/mm.h``. Like the kernel's, it doesn't check the zone ID: the result of
    one past the last points into what follows the zones in ``struct pglist_data``.

    :param page: ``struct page *``
    :return: ``struct zone *``
    :raises drgn.FaultError: if the struct page can't be read, or there is no such node.
    """
    pgdat = NODE_DATA(page.prog_, page_to_nid(page))
    zone = pgdat.node_zones[0].address_of_()
    return zone + page_zonenum(page)


def zone_spans_pfn(zone: Object, pfn: int) -> bool:
    """
    Tell whether a zone spans a pfn: whether it lies between its first and its last page. Holes are spanned, too.

    Follows ``zone_spans_pfn()`` of ``include/linux/mmzone.h``.

    :param zone: ``struct zone *``
    :param pfn: Page frame number.
    """
    start = int(zone.zone_start_pfn)
    return start <= pfn < start + int(zone.spanned_pages)


def pfn_to_online_page(prog: Program, pfn: int) -> Object:
    """
    Get the struct page of a pfn if its memory is online.

    Follows ``pfn_to_online_page()`` of ``mm/memory_hotplug.c``: section, subsection and, for what shares a section with
    device memory, the zone are looked at. With FLATMEM, all of ``mem_map`` is online.

    Since Linux kernel commit 1f90a3477df3 ("mm: teach pfn_to_online_page() about ZONE_DEVICE section collisions") (in
    v5.12), subsections count. Before, and without CONFIG_MEMORY_HOTPLUG, holes of early sections are online, too.

    :param prog: The kernel.
    :param pfn: Page frame number.
    :return: ``struct page *``, ``NULL`` if it isn't online.
    """
    kernel = kernel_of(prog)
    section = kernel.memory.section(pfn)
    if section is None or not any(start <= pfn < end for start, end in section.ranges):
        return NULL(prog, "struct page *")
    if kernel.target.has_function("pfn_to_online_page") and subsection(kernel.prog, pfn) is False:
        return NULL(prog, "struct page *")
    return Object(prog, "struct page *", mmzone.pfn_to_page(kernel.memory.layout, section, pfn))
