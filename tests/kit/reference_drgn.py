# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a kernel through drgn for the reference, one object per page."""

from __future__ import annotations

import re
from collections.abc import Iterator

from drgn import FaultError, Object, Program, cast, sizeof
from drgn.helpers.linux.mmzone import early_section, online_section, pfn_to_section_nr, present_section, valid_section

from tests.kit.reference import Machine, Node, Page, World, Zone, state


def _word(value: Object) -> int:
    # memdesc_flags_t is a structure with the one member f.
    return int(value.f.value_() if hasattr(value, "f") else value.value_())


def _is_of_7_4(prog: Program) -> bool:
    """
    Whether sections are those of Linux 7.4: none is marked present, and their size is no power of two.

    drgn 0.3 knows neither, so the kernel's own enumerators and sizes are taken.
    """
    try:
        prog.constant("SECTION_HAS_MEM_MAP_BIT")
    except LookupError:
        return False
    try:
        prog.constant("SECTION_MARKED_PRESENT_BIT")
    except LookupError:
        return True
    return False


def _has(section: Object, *names: str) -> bool:
    value = section.section_mem_map.value_()
    return all(value >> section.prog_.constant(f"SECTION_{name}_BIT").value_() & 1 for name in names)


def _present_sections(prog: Program) -> Iterator[tuple[int, Object]]:
    """``for_each_present_section_nr()`` with SPARSEMEM_EXTREME, over all roots."""
    new = _is_of_7_4(prog)
    if new:
        per_root = (1 << prog["PAGE_SHIFT"].value_()) // sizeof(prog.type("struct mem_section"))
        (length,) = re.findall(rb"LENGTH\(mem_section\)=(\d+)", prog["VMCOREINFO"].string_())
        roots = int(length)
    else:
        per_root, roots = prog["SECTIONS_PER_ROOT"].value_(), prog["NR_SECTION_ROOTS"].value_()
    mem_section = prog["mem_section"]
    for root in range(roots):
        if not mem_section[root]:
            continue
        for index in range(per_root):
            section = mem_section[root] + index
            if section.section_mem_map.value_() if new else present_section(section):
                yield root * per_root + index, section


def _online_pfns(prog: Program, machine: Machine) -> Iterator[int]:
    """``pfn_to_online_page()`` for every pfn (``pfn_valid()`` with FLATMEM)."""
    if machine.flatmem:
        first = prog["ARCH_PFN_OFFSET"].value_()
        yield from range(first, first + prog["max_mapnr"].value_())
        return
    subsection = 1 << (21 - prog["PAGE_SHIFT"].value_())
    new = _is_of_7_4(prog)
    for nr, section in _present_sections(prog):
        if not (
            _has(section, "IS_ONLINE", "HAS_MEM_MAP") if new else online_section(section) and valid_section(section)
        ):
            continue
        early = _has(section, "IS_EARLY") if new else early_section(section)
        bits = None if early else section.usage.subsection_map
        for index in range(1 << machine.section_shift):
            if bits is not None:
                bit = index // subsection
                if not bits[bit // machine.word_bits].value_() >> bit % machine.word_bits & 1:
                    continue
            pfn = (nr << machine.section_shift) + index
            assert index or new or pfn_to_section_nr(prog, pfn).value_() == nr
            yield pfn


def _pgdats(prog: Program) -> Iterator[tuple[int, Object]]:
    """``NODE_DATA(nid)`` wherever there is one. Nodes that are not online may have one too, with empty zones."""
    try:
        node_data = prog["node_data"]
    except LookupError:
        yield 0, prog["contig_page_data"].address_of_()
        return
    for nid, pgdat in enumerate(node_data):
        if pgdat:
            yield nid, pgdat


def read_world(prog: Program, machine: Machine) -> World:
    """Read a kernel, one drgn object per page."""
    world = World(machine, {}, {})
    for nid, pgdat in _pgdats(prog):
        # ULONG_MAX when all is initialized, 0 in a node that was plugged in.
        deferred = (hasattr(pgdat, "first_deferred_pfn") and pgdat.first_deferred_pfn.value_()) or (1 << 64) - 1
        world.nodes[nid] = Node(pgdat.node_start_pfn.value_(), pgdat.node_spanned_pages.value_(), deferred)
        for index in range(machine.max_nr_zones):
            zone = pgdat.node_zones[index]
            world.zones[nid, index] = Zone(
                nid,
                index,
                zone.zone_start_pfn.value_(),
                zone.spanned_pages.value_(),
                bool(zone.contiguous.value_()),
                zone.pageblock_flags.value_() if machine.flatmem else 0,
            )
    if not machine.flatmem:
        world.sections_without_bitmap = tuple(
            nr for nr, section in _present_sections(prog) if not section.usage.value_()
        )
    if machine.flatmem:
        memmap = prog["mem_map"] - prog["ARCH_PFN_OFFSET"]
    elif _is_of_7_4(prog):
        memmap = cast("struct page *", prog["vmemmap_base"])
    else:
        memmap = prog["vmemmap"]
    for pfn in _online_pfns(prog, machine):
        world.pages[pfn] = _read_page(world, memmap[pfn], pfn)
    return world


def _read_page(world: World, page: Object, pfn: int) -> Page:
    try:
        flags = _word(page.flags)
        all_zero = flags == 0 and not any(page.to_bytes_())
    except FaultError as e:
        return Page(pfn, 0, "excluded from the dump" if "xcluded" in str(e) else "unmapped")
    return Page(pfn, flags, state(world, pfn, flags, page._refcount.counter.value_, all_zero))
