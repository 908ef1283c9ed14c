# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read nodes and zones: their sizes, and what of them changes while the kernel runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from drgn import FaultError, Object, Program, TypeKind, sizeof

from mminspect.errors import LayoutError, TypeInfoError
from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.zones import FreeArea, Node, Zone, ZoneState
from mminspect.program.text import MAX_ZONE_NAME, kernel_name

CURSORS = ("compact_cached_free_pfn", "compact_cached_migrate_pfn", "compact_init_migrate_pfn", "compact_init_free_pfn")


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


def read_nodes(prog: Program, layout: Layout, pfn_limit: int) -> tuple[list[Node], list[Zone]]:
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


def integer(value: Object) -> int:
    """
    Read a number.

    :raises TypeInfoError: if the types make something else of it.
    """
    number = value.value_()
    if isinstance(number, (int, bool)):
        return int(number)
    raise TypeInfoError(
        f"{value.type_.type_name()} is the type of what must be a number; the type information is damaged"
    )


def _node(prog: Program, layout: Layout, nid: int, pgdat: Object, online: bool) -> Node:
    deferred = None
    if prog.type("struct pglist_data").has_member("first_deferred_pfn"):
        value = integer(pgdat.first_deferred_pfn)
        start, spanned = integer(pgdat.node_start_pfn), integer(pgdat.node_spanned_pages)
        # ULONG_MAX says that nothing is deferred any more. A node that was hot-added has 0.
        deferred = value if start <= value < start + spanned and value else None
    return Node(
        nid=nid,
        address=pgdat.value_(),
        start_pfn=integer(pgdat.node_start_pfn),
        spanned=integer(pgdat.node_spanned_pages),
        present=integer(pgdat.node_present_pages),
        first_deferred_pfn=deferred,
        online=online,
        node_id=_node_id(pgdat),
    )


def _node_id(pgdat: Object) -> int | None:
    try:
        return integer(pgdat.node_id)
    except FaultError:
        return None


def _zone(layout: Layout, node: int, index: int, address: int, zone: Object) -> Zone:
    # Since Linux kernel commit 9705bea5f833 ("mm: convert zone->managed_pages to atomic variable") (in v5.0), it
    # is an atomic_long_t.
    managed = zone.managed_pages
    managed = managed.counter if hasattr(managed, "counter") else managed
    try:
        name = kernel_name(zone.name.string_(), MAX_ZONE_NAME) if zone.name else ""
    except FaultError:
        name = ""
    return Zone(
        node=node,
        index=index,
        name=name or f"id {index}",
        start_pfn=integer(zone.zone_start_pfn),
        spanned=integer(zone.spanned_pages),
        present=integer(zone.present_pages),
        managed=integer(managed),
        contiguous=bool(integer(zone.contiguous)) if hasattr(zone, "contiguous") else False,
        address=address,
        bitmap=_bitmap(zone) if layout.flatmem else None,
        state=_zone_state(zone, address) if zone.spanned_pages else None,
    )


def _bitmap(zone: Object) -> int:
    # A kernel with struct pageblock_data has another member in its place.
    return integer(zone.pageblock_flags) if zone.type_.has_member("pageblock_flags") else 0


def read_bitmaps(prog: Program, layout: Layout, zones: list[Zone]) -> list[Zone]:
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


def read_phantom_zones(prog: Program, layout: Layout, nodes: list[Node]) -> dict[tuple[int, int], Zone]:
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
                    node=node.nid,
                    index=index,
                    name=f"id {index}",
                    start_pfn=integer(zone.zone_start_pfn),
                    spanned=integer(zone.spanned_pages),
                    present=0,
                    managed=0,
                    address=address,
                    bitmap=_bitmap(zone),
                )
            except FaultError:
                continue
    return result


def _zone_state(zone: Object, address: int) -> ZoneState:
    """
    Decode a zone that was read.

    :param zone: Value of the ``struct zone``.
    :param address: Where it was read.
    """
    type_ = zone.type_
    return ZoneState(
        _free_areas(zone, address),
        bool(lock_is_held(zone.lock)),
        integer(zone.node) if type_.has_member("node") else None,
        integer(zone.zone_pgdat),
        tuple(_cursors(zone)),
    )


def _free_areas(zone: Object, address: int) -> tuple[FreeArea, ...]:
    prog = zone.prog_
    if not zone.type_.has_member("free_area"):
        return ()
    links = prog.type("struct list_head").members or ()
    if any(link.type.unaliased_kind() != TypeKind.POINTER for link in links):
        raise LayoutError("struct list_head has other members than pointers; the type information is damaged")
    list_head = sizeof(prog.type("struct list_head"))
    area_type = prog.type("struct free_area")
    areas = address + zone.type_.member("free_area").offset
    lists = area_type.member("free_list").offset
    result = []
    for order, area in enumerate(zone.free_area):
        heads = area.free_list
        start = areas + order * sizeof(area_type) + lists
        count = len(heads)
        result.append(
            FreeArea(
                integer(area.nr_free),
                tuple(start + i * list_head for i in range(count)),
                tuple(integer(heads[i].next) for i in range(count)),
                tuple(integer(heads[i].prev) for i in range(count)),
            )
        )
    return tuple(result)


def lock_is_held(lock: Object) -> bool | None:
    """
    Tell whether a ``spinlock_t`` is held.

    Where there are tickets, the lock is free when both halves of its word are equal; else when the word is 0.

    :return: ``None`` if nothing tells, as without SMP.
    """
    if lock.type_.has_member("rlock"):
        raw = lock.rlock.raw_lock
    elif lock.type_.has_member("lock"):
        # PREEMPT_RT: a mutex, whose owner is set while it is held.
        return bool(lock.lock.owner)
    else:
        return None
    size = min(4, sizeof(raw.type_))
    if not size:
        # Without SMP there is nothing to lock.
        return None
    data = raw.to_bytes_()[:size]
    return any(data) and data[: size // 2] != data[size // 2 :]


def _cursors(zone: Object) -> list[tuple[str, int]]:
    result: list[tuple[str, int]] = []
    for name in CURSORS:
        if not zone.type_.has_member(name):
            continue
        member = zone.member_(name)
        length: int | None = getattr(member.type_, "length", None)
        if length is None:
            result.append((name, integer(member)))
        else:
            result.extend((f"{name}[{i}]", integer(member[i])) for i in range(length))
    return result
