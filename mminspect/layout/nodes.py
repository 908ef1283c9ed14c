# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read nodes and zones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from drgn import FaultError, Object, Program, sizeof

from mminspect.errors import LayoutError
from mminspect.layout.zones import zone_state
from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.zones import Node, Zone


def _online_nodes(prog: Program) -> list[int]:
    online = prog["node_states"][prog["N_ONLINE"]].bits
    word_bits = 8 * sizeof(online.type_.type)
    result: list[int] = []
    for index, word in enumerate(online):
        value = word.value_()
        result.extend(index * word_bits + bit for bit in range(word_bits) if value >> bit & 1)
    return result


def _pgdats(prog: Program, online: list[int]) -> Iterator[tuple[int, Object]]:
    """
    Find the nodes that have a pgdat.

    Since Linux kernel commit 09f49dca570a ("mm: handle uninitialized numa nodes gracefully") (in v5.19), nodes that are
    possible but not online have one too, with empty zones.
    """
    try:
        node_data = prog["node_data"]
    except LookupError:
        # Without NUMA there is one node, which isn't in an array.
        yield 0, prog["contig_page_data"].address_of_()
        return
    for nid, pgdat in enumerate(node_data.read_()):
        if pgdat or nid in online:
            yield nid, pgdat


def _read_nodes(prog: Program, layout: Layout, pfn_limit: int) -> tuple[list[Node], list[Zone]]:
    nodes: list[Node] = []
    zones: list[Zone] = []
    online = _online_nodes(prog)
    for nid, pgdat in _pgdats(prog, online):
        if not pgdat:
            raise LayoutError(f"node {nid} is online but has no pgdat; the dump is damaged")
        nodes.append(_node(prog, layout, nid, pgdat, nid in online))
        for index in range(layout.max_nr_zones):
            address = pgdat.value_() + layout.node_zones_offset + index * layout.zone_struct_size
            zone = _zone(layout, nid, index, address, pgdat.node_zones[index].read_())
            if zone.spanned and zone.end_pfn > pfn_limit:
                raise LayoutError(
                    f"{zone} has zone_start_pfn {zone.start_pfn:#x} and spanned_pages {zone.spanned:#x}: it would end "
                    f"beyond pfn {pfn_limit:#x}, where this kernel's memory ends; the dump or the types are damaged"
                )
            zones.append(zone)
    return nodes, zones


def _node(prog: Program, layout: Layout, nid: int, pgdat: Object, online: bool) -> Node:
    deferred = None
    if prog.type("struct pglist_data").has_member("first_deferred_pfn"):
        value = pgdat.first_deferred_pfn.value_()
        start, spanned = pgdat.node_start_pfn.value_(), pgdat.node_spanned_pages.value_()
        # ULONG_MAX says that nothing is deferred any more. A node that was hot-added has 0.
        deferred = value if start <= value < start + spanned and value else None
    return Node(
        nid,
        pgdat.value_(),
        pgdat.node_start_pfn.value_(),
        pgdat.node_spanned_pages.value_(),
        pgdat.node_present_pages.value_(),
        deferred,
        online,
        _node_id(pgdat),
    )


def _node_id(pgdat: Object) -> int | None:
    try:
        return int(pgdat.node_id.value_())
    except FaultError:
        return None


def _zone(layout: Layout, node: int, index: int, address: int, zone: Object) -> Zone:
    # Since Linux kernel commit 9705bea5f833 ("mm: convert zone->managed_pages to atomic variable") (in v5.0), it
    # is an atomic_long_t.
    managed = zone.managed_pages
    managed = managed.counter if hasattr(managed, "counter") else managed
    try:
        name = zone.name.string_().decode("ascii", "replace") if zone.name else ""
    except FaultError:
        name = ""
    return Zone(
        node,
        index,
        name or f"id {index}",
        zone.zone_start_pfn.value_(),
        zone.spanned_pages.value_(),
        zone.present_pages.value_(),
        managed.value_(),
        bool(zone.contiguous.value_()) if hasattr(zone, "contiguous") else False,
        address,
        zone.pageblock_flags.value_() if layout.flatmem else None,
        state=zone_state(zone, address) if zone.spanned_pages else None,
    )


def _read_bitmaps(prog: Program, layout: Layout, zones: list[Zone]) -> list[Zone]:
    """Read each zone's bitmap once, so that a dump that lacks one is refused before anything is said of it."""
    result = []
    for zone in zones:
        if not zone.bitmap or not zone.spanned:
            result.append(zone)
            continue
        try:
            data = prog.read(zone.bitmap, bitmap.usemap_size(layout, zone) // 8)
        except FaultError as e:
            raise LayoutError(
                f"the pageblock bitmap of {zone} at {zone.bitmap:#x} can't be read: {e}; the dump doesn't hold it"
            ) from None
        result.append(replace(zone, pageblock_flags=data))
    return result


def _read_phantom_zones(prog: Program, layout: Layout, nodes: list[Node]) -> dict[tuple[int, int], Zone]:
    """
    Read the memory that page_zone() would take for a zone where the zone ID is out of the array.

    With FLATMEM, the index into a bitmap is computed from it.
    """
    result: dict[tuple[int, int], Zone] = {}
    for node in nodes:
        for index in range(layout.max_nr_zones, 1 << layout.flags.zone.width):
            address = node.address + layout.node_zones_offset + index * layout.zone_struct_size
            zone = Object(prog, "struct zone", address=address)
            try:
                result[node.nid, index] = Zone(
                    node.nid,
                    index,
                    f"id {index}",
                    zone.zone_start_pfn.value_(),
                    zone.spanned_pages.value_(),
                    0,
                    0,
                    False,
                    address,
                    zone.pageblock_flags.value_(),
                )
            except FaultError:
                continue
    return result
