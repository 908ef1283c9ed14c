# SPDX-License-Identifier: LGPL-2.1-or-later
"""Functions of ``include/linux/mm.h``, ``mmzone.h`` and ``pageblock-flags.h``, under the kernel's names."""

from __future__ import annotations

from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import Zone

# The bits of a pageblock, as bitmap.pageblock_bits() returns them (enum pageblock_bits).
MIGRATETYPE_MASK = 0x7
PB_COMPACT_SKIP = 0x8
# Since Linux kernel commit e904bce2d9d4 ("mm/page_isolation: make page isolation a standalone bit") (in v6.17).
PB_MIGRATE_ISOLATE = 0x10


def pfn_to_page(layout: Layout, section: Section, pfn: int) -> int:
    """Return the address of a struct page."""
    return (section.mem_map + pfn * layout.page.size) & layout.address_mask


def page_to_pfn(layout: Layout, section: Section, page: int) -> int:
    """Return the pfn of the struct page that an address lies in, as far as the section's memmap goes."""
    return ((page - section.mem_map) & layout.address_mask) // layout.page.size


def page_zonenum(layout: Layout, flags: int) -> int:
    """Return the zone ID in ``page->flags``."""
    return flags >> layout.flags.zone.shift & layout.flags.zone.mask


def page_to_nid(layout: Layout, flags: int) -> int:
    """Return the node in ``page->flags``, 0 with NODE_NOT_IN_PAGE_FLAGS."""
    return flags >> layout.flags.node.shift & layout.flags.node.mask


def page_zone(memory: MemoryMap, link: int) -> Zone | None:
    """Follow a link as the kernel does, out of the array if it leads there."""
    node, index = memory.layout.node_zone(link)
    return memory.zone(node, index) or memory.phantom_zones.get((node, index))


def page_zone_address(memory: MemoryMap, node: int, index: int) -> tuple[int | None, str]:
    """
    Follow ``page_zone()`` out of the array.

    :return: (address, name of the member of ``struct pglist_data`` there); the address is ``None`` where the
        node has no pgdat.
    """
    layout = memory.layout
    pgdat = memory.node(node)
    if pgdat is None:
        return None, ""
    offset = layout.node_zones_offset + index * layout.zone_struct_size
    member = ""
    for name, member_offset in layout.pgdat_members:
        if member_offset <= offset:
            member = name
    return pgdat.address + offset, member


def get_pfnblock_migratetype(layout: Layout, bits: int) -> int:
    """
    Return the migratetype of a pageblock.

    :param bits: What :func:`mminspect.memorymap.bitmap.pageblock_bits` returned.
    """
    if layout.isolate_bit and bits & PB_MIGRATE_ISOLATE and "ISOLATE" in layout.migratetypes:
        return layout.migratetypes.index("ISOLATE")
    return bits & MIGRATETYPE_MASK
