# SPDX-License-Identifier: LGPL-2.1-or-later
"""Functions of ``include/linux/mmzone.h`` and ``include/linux/mm.h``, under the kernel's names."""

from __future__ import annotations

from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.zones import Zone


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
