# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The layout of a kernel's memory map, decoded by the members, enumerators and sizes of the kernel at hand.

:func:`read_memory_map` is the only way in. What comes out holds no drgn object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from drgn import FaultError, Object, PlatformFlags, Program, sizeof

from mminspect.errors import LayoutError
from mminspect.layout import bitmap, orders, pageflags, sections
from mminspect.layout.records import (
    FLATMEM,
    SPARSEMEM,
    SPARSEMEM_VMEMMAP,
    Layout,
    MemoryMap,
    Node,
    PageMembers,
    Section,
    SectionEntry,
    Zone,
)
from mminspect.layout.zonestate import zone_state
from mminspect.target import MACHINE_NAMES, Target
from mminspect.typeinfo.declarations import enumerator, max_numnodes


def read_memory_map(target: Target, pageblock_order: int | None = None, layout: Layout | None = None) -> MemoryMap:
    """
    Read the layout, nodes, zones and sections of a kernel.

    :param target: Its program must have types.
    :param pageblock_order: What the user says of it.
    :param layout: The layout, if it was read before.
    :raises LayoutError: if something can't be read or can't be true.
    """
    try:
        return _read_memory_map(target, pageblock_order, layout)
    except LayoutError as e:
        if pageblock_order is None:
            raise
        raise LayoutError(f"with --pageblock-order {pageblock_order}: {e}") from None


def _read_memory_map(target: Target, pageblock_order: int | None, layout: Layout | None) -> MemoryMap:
    prog = target.prog
    try:
        if layout is None:
            layout = read_layout(target, pageblock_order)
        entries: Sequence[SectionEntry] = ()
        found: Sequence[Section]
        if layout.flatmem:
            found = sections.flat_sections(prog, layout.release, layout.pageblock_nr_pages)
        else:
            found, entries = sections.sparse_sections(prog, bitmap.in_words(layout, bitmap.section_usemap_size(layout)))
        limit = _pfn_limit(prog, layout, found[-1].ranges[-1][1] if found and found[-1].ranges else 0)
        nodes, zones = _read_nodes(prog, layout, limit)
    except FaultError as e:
        raise LayoutError(f"the kernel's zones and sections can't be read: {e}; the dump doesn't hold them") from None
    except (LookupError, AttributeError, TypeError) as e:
        raise LayoutError(f"the type information lacks what describes memory: {_one_line(e)}") from None
    except (ValueError, OverflowError, ZeroDivisionError) as e:
        raise LayoutError(
            f"the kernel's sizes can't be true ({_one_line(e)}); the dump, its VMCOREINFO or the types are damaged"
        ) from None
    if not any(section.ranges for section in found):
        raise LayoutError("no section of memory is valid and online; the dump was taken too early or is damaged")
    if layout.flatmem:
        zones = _read_bitmaps(prog, layout, zones)
    phantoms = _read_phantom_zones(prog, layout, nodes) if layout.flatmem else {}
    # Without DWARF, the symbol makes all of kallsyms be read. It matters to pages that wait only.
    waiting = any(node.first_deferred_pfn is not None for node in nodes)
    booted = read_booted(prog) if waiting else None
    return MemoryMap(layout, tuple(nodes), tuple(zones), found, phantoms, entries, limit, booted)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def read_layout(target: Target, pageblock_order: int | None = None) -> Layout:
    """
    Read what is the same for all of a kernel.

    :raises LayoutError: if it can't be told.
    """
    prog = target.prog
    page = prog.type("struct page")
    zone = prog.type("struct zone")
    pgdat = prog.type("struct pglist_data")
    _check_sizes(target)
    page_shift = prog["PAGE_SHIFT"].value_()
    word_bits = 8 * sizeof(prog.type("unsigned long"))
    max_nr_zones = enumerator(prog, "enum zone_type", "__MAX_NR_ZONES")
    if max_nr_zones is None:
        raise LayoutError("the type information has no enum zone_type; give the kernel's own vmlinux or BTF")
    # The bitmap is in struct zone "#ifndef CONFIG_SPARSEMEM".
    memory_model = FLATMEM if zone.has_member("pageblock_flags") else SPARSEMEM
    pfn_section_shift = None
    sections_shift = 0
    if memory_model == SPARSEMEM:
        section_bits = prog["SECTION_SIZE_BITS"].value_()
        pfn_section_shift = section_bits - page_shift
        if "vmemmap" in prog:
            memory_model = SPARSEMEM_VMEMMAP
        else:
            sections_shift = prog["MAX_PHYSMEM_BITS"].value_() - section_bits
    elif (max_numnodes(prog) or 1) > 1:
        raise LayoutError("the kernel has DISCONTIGMEM, which mminspect doesn't know")
    order, order_from = orders.pageblock_order(target, page_shift, pageblock_order)
    if pfn_section_shift is not None and order > pfn_section_shift:
        raise LayoutError(f"a pageblock of order {order} is larger than a section; give the right --pageblock-order")
    reserved = enumerator(prog, "enum pageflags", "PG_reserved")
    if reserved is None:
        raise LayoutError("the type information has no enum pageflags; give the kernel's own vmlinux or BTF")
    assert prog.platform is not None
    little = bool(prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
    return Layout(
        release=target.vmcoreinfo.release,
        machine=_machine(prog),
        page_size=1 << page_shift,
        word_bits=word_bits,
        byteorder="little" if little else "big",
        memory_model=memory_model,
        page_struct_size=sizeof(page),
        flags_offset=page.member("flags").offset,
        refcount_offset=page.member("_refcount").offset,
        mapcount_offset=page.member("_mapcount").offset,
        pg_reserved=reserved,
        flags=pageflags.page_flags_layout(prog, word_bits, max_nr_zones, sections_shift),
        max_nr_zones=max_nr_zones,
        max_order=orders.max_order(prog),
        pageblock_order=order,
        pageblock_order_from=order_from,
        bits_per_pageblock=_bits_per_pageblock(prog),
        # Only the version tells; see bitmap.pageblock_bits().
        bits_from_top=orders.release_version(target.vmcoreinfo.release) < (5, 9),
        pfn_section_shift=pfn_section_shift,
        zone_struct_size=sizeof(zone),
        node_zones_offset=pgdat.member("node_zones").offset,
        pgdat_members=tuple(sorted(((m.name or "", m.offset) for m in pgdat.members or ()), key=lambda m: m[1])),
        migratetypes=_migratetypes(prog),
        isolate_bit=enumerator(prog, "enum pageblock_bits", "PB_migrate_isolate") is not None,
        page=_page_members(target),
    )


def _page_members(target: Target) -> PageMembers | None:
    """Find the members of ``struct page`` that not every kernel has at one place or under one name."""
    prog = target.prog
    page = prog.type("struct page")
    buddy = target.vmcoreinfo.buddy_mapcount
    nr_pageflags = enumerator(prog, "enum pageflags", "__NR_PAGEFLAGS")
    if buddy is None or nr_pageflags is None:
        return None
    names = {item.value: item.name for item in reversed(prog.type("enum pageflags").enumerators or ())}
    if page.has_member("compound_order"):
        order_offset = page.member("compound_order").offset
    else:
        # Since Linux 6.6, the order of a compound page is in the low byte of its second page's flags.
        low = target.prog.platform is None or target.prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
        order_offset = page.member("flags").offset + (0 if low else sizeof(prog.type("unsigned long")) - 1)
    # Since Linux 7.1, it is compound_info, and a mask where hugetlb's vmemmap is optimised
    # (compound_info_has_mask()); zone->vmemmap_tails exists under that option only.
    head = "compound_info" if page.has_member("compound_info") else "compound_head"
    size = sizeof(page)
    return PageMembers(
        page.member("lru").offset,
        page.member("private").offset,
        page.member(head).offset,
        head == "compound_info" and prog.type("struct zone").has_member("vmemmap_tails") and not size & (size - 1),
        order_offset,
        buddy & 0xFFFFFFFF,
        tuple(names.get(bit, f"bit {bit}")[len("PG_") :] for bit in range(nr_pageflags)),
    )


def _check_sizes(target: Target) -> None:
    """Refuse sizes that can't be, where VMCOREINFO has nothing to compare with."""
    size = sizeof(target.prog.type("struct page"))
    if size <= 0 or size % sizeof(target.prog.type("unsigned long")) or size > 512:
        raise LayoutError(f"a struct page of {size} bytes can't be; the type information is damaged")


def _machine(prog: Program) -> str:
    try:
        name = prog["init_uts_ns"].name.machine.string_().decode("ascii", "replace")
    except (LookupError, AttributeError, FaultError):
        name = ""
    assert prog.platform is not None
    return str(name or MACHINE_NAMES.get(prog.platform.arch, prog.platform.arch.name.lower()))


def _bits_per_pageblock(prog: Program) -> int:
    # Since Linux kernel commit e904bce2d9d4 (in v6.17), isolation has a bit of its own, and the number of
    # bits is rounded up to a power of two: NR_PAGEBLOCK_BITS is a macro over __NR_PAGEBLOCK_BITS.
    exact = enumerator(prog, "enum pageblock_bits", "NR_PAGEBLOCK_BITS")
    if exact is None:
        rounded = enumerator(prog, "enum pageblock_bits", "__NR_PAGEBLOCK_BITS")
        exact = 1 << (rounded - 1).bit_length() if rounded else None
    # Where nothing in the types names it, the enum wasn't used by any type; it was 4 until 6.16.
    if exact not in (4, 8):
        raise LayoutError(
            "the type information has no usable enum pageblock_bits; give the kernel's own vmlinux or BTF"
        )
    return exact


def _migratetypes(prog: Program) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for item in prog.type("enum migratetype").enumerators or ():
        if item.name.startswith("MIGRATE_") and item.name not in ("MIGRATE_PCPTYPES", "MIGRATE_TYPES"):
            names.setdefault(int(item.value), item.name[len("MIGRATE_") :])
    return tuple(names[value] for value in sorted(names))


def _pfn_limit(prog: Program, layout: Layout, memmap_end: int) -> int:
    """Get the pfn behind the last that the machine can have."""
    if layout.flatmem:
        return memmap_end
    return int(1 << (prog["MAX_PHYSMEM_BITS"].value_() - prog["PAGE_SHIFT"].value_()))


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


def read_booted(prog: Program) -> bool | None:
    """Tell whether the kernel has called ``page_alloc_init_late()``: it did before it left SYSTEM_SCHEDULING."""
    try:
        return bool(prog["system_state"].value_() > prog.constant("SYSTEM_SCHEDULING").value_())
    except (LookupError, FaultError):
        return None


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
