# SPDX-License-Identifier: LGPL-2.1-or-later
"""The analyzer agrees with the per-page reference on memory maps that hypothesis makes, however they are cut."""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

from drgn import Architecture, FaultError, Platform, PlatformFlags, Program
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.memmap import reader as memmap
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import Node, Zone
from mminspect.rules.registry import select_rules
from mminspect.walk import engine as analyzer
from tests.kit import handmade, reference

# A small page makes struct pages cross page boundaries.
PAGE_SIZE = 256
BASE = 0x40000000
NEVER = (1 << 64) - 1

MESSAGES = {
    "excluded from the dump": "excluded from the dump",
    "unmapped": "no such memory",
    "not exported by kcore": "no such memory",
}


class Made(NamedTuple):
    """A memory map, the bytes of its memmap, and what can't be read of these."""

    memory: MemoryMap
    data: bytes
    missing: tuple[tuple[int, int], ...]
    why: str

    @property
    def pages(self) -> list[int]:
        """The online pfns."""
        return [pfn for s in self.memory.sections for low, high in s.ranges for pfn in range(low, high)]


def program(made: Made) -> Program:
    """Make a drgn program of which only the memmap can be read."""
    flags = PlatformFlags.IS_LITTLE_ENDIAN if made.memory.layout.byteorder == "little" else PlatformFlags(0)
    if made.memory.layout.word_bits == 64:
        flags |= PlatformFlags.IS_64_BIT
    prog = Program(Platform(Architecture.UNKNOWN, flags))

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        for low, high in made.missing:
            if address < high and low < address + count:
                raise FaultError(MESSAGES[made.why], address)
        return made.data[address - BASE : address - BASE + count]

    prog.add_memory_segment(BASE, len(made.data), read)
    return prog


def scan(made: Made, chunk_pages: int) -> list[reference.Found]:
    """Scan with mminspect."""
    live = made.why == "not exported by kcore"
    reader = memmap.Memmap(program(made), made.memory, live)
    with mock.patch.object(memmap, "CHUNK_PAGES", chunk_pages):
        walk = analyzer.Scan(made.memory, reader, select_rules(reference.RULE_IDS), handmade.nothing_known)
        found = [reference.from_report(f) for f in walk.findings()]
    assert walk.pages_examined + walk.pages_unreadable == len(made.pages)
    assert walk.pageblocks == len({pfn >> made.memory.layout.pageblock_order for pfn in made.pages})
    return found


def world(made: Made) -> reference.World:
    """Make the reference's world of the same bytes, struct page by struct page."""
    layout = made.memory.layout
    machine = reference.Machine(
        layout.pageblock_order,
        layout.bits_per_pageblock,
        layout.word_bits,
        layout.flatmem,
        layout.max_nr_zones,
        (layout.flags.node.shift, layout.flags.node.width),
        (layout.flags.zone.shift, layout.flags.zone.width),
        layout.page.flag_names.index("reserved"),
        layout.pfn_section_shift or 0,
    )
    result = reference.World(
        machine,
        {(z.node, z.index): as_reference(z) for z in made.memory.zones},
        {
            n.nid: reference.Node(n.start_pfn, n.spanned, n.first_deferred_pfn if n.first_deferred_pfn else NEVER)
            for n in made.memory.nodes
        },
        sections_without_bitmap=tuple(s.nr for s in made.memory.sections if not s.bitmap),
        phantoms={key: as_reference(z) for key, z in made.memory.phantom_zones.items()},
    )
    order = "<" if layout.byteorder == "little" else ">"
    size = layout.page.size
    for section in made.memory.sections:
        for pfn in (pfn for low, high in section.ranges for pfn in range(low, high)):
            address = section.mem_map + pfn * size
            if any(address < high and low < address + size for low, high in made.missing):
                result.pages[pfn] = reference.Page(pfn, 0, made.why)
                continue
            entry = made.data[address - BASE : address - BASE + size]
            (flags,) = struct.unpack_from(
                order + ("Q" if layout.word_bits == 64 else "I"), entry, layout.page.flags_offset
            )
            (count,) = struct.unpack_from(order + "i", entry, layout.page.refcount_offset)
            state = reference.state(result, pfn, flags, lambda count=count: count, not any(entry))  # type: ignore[misc]
            result.pages[pfn] = reference.Page(pfn, flags, state)
    return result


def as_reference(zone: Zone) -> reference.Zone:
    """Copy a zone."""
    return reference.Zone(zone.node, zone.index, zone.start_pfn, zone.spanned, zone.contiguous, zone.bitmap or 0)


# How a struct page comes to be, and how often.
KINDS = ("good", "good", "good", "own", "own", "own", "own", "reserved", "zeroed", "poisoned", "garbage", "half-zero")


class Maker:
    """Makes a memory map. Hypothesis chooses what matters to the rules; the rest of each entry is noise."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.noise = random.Random(draw(st.integers(0, 1 << 16)))

    def number(self, low: int, high: int) -> int:
        """Choose a number."""
        return int(self.draw(st.integers(low, high)))

    def layout(self) -> Layout:
        """Choose the kernel."""
        order = self.number(1, 4)
        base = handmade.FLAT if self.draw(st.booleans()) else handmade.SPARSE
        shift = None if base.flatmem else order + self.number(0, 2)
        return dataclasses.replace(
            base,
            pageblock_order=order,
            bits_per_pageblock=self.draw(st.sampled_from([4, 8])),
            byteorder=self.draw(st.sampled_from(["little", "big"])),
            pfn_section_shift=shift,
            page_size=PAGE_SIZE,
            max_nr_zones=self.number(2, 4) if base.flatmem else self.number(3, 5),
        )

    def zones(self, layout: Layout, total: int) -> list[Zone]:
        """Choose zones, which may overlap in any way, and be empty."""
        made = []
        for node in range(1 if layout.flatmem else self.number(1, 3)):
            for index in range(layout.max_nr_zones):
                start, spanned = self.number(0, total), self.draw(st.sampled_from([0, 0, 1, 2])) * self.number(0, total)
                bitmap = self.draw(st.sampled_from([0, 0x80000000, 0x80000100])) if layout.flatmem else None
                spanned = min(spanned, total)
                contiguous = self.draw(st.booleans())
                made.append(handmade.zone(index, start, spanned, node, bitmap=bitmap, contiguous=contiguous))
        return made

    def ranges(self, low: int, high: int) -> tuple[tuple[int, int], ...]:
        """Choose the online pages of a section: all of it, or with holes anywhere, also inside pageblocks."""
        if self.number(0, 2):
            return ((low, high),)
        edges = sorted({self.number(low, high) for _ in range(2 * self.number(1, 3))})
        return tuple(zip(edges[::2], edges[1::2])) or ((low, high),)

    def sections(self, layout: Layout, total: int) -> list[Section]:
        """Choose the sections that are online."""
        if layout.flatmem:
            return [Section(0, ((0, total),), BASE + 8, 0)]
        assert layout.pfn_section_shift is not None
        size = 1 << layout.pfn_section_shift
        chosen = [nr for nr in range(total // size) if self.number(0, 4)] or [0]
        made = []
        for nr in chosen:
            bitmap = self.draw(st.sampled_from([0, 1, 1, 1]))
            made.append(Section(nr, self.ranges(nr * size, nr * size + size), BASE + 8, bitmap))
        return made

    def nodes(self, zones: Sequence[Zone], total: int) -> list[Node]:
        """Make nodes around their zones, some with deferred initialization."""
        made = []
        for nid in sorted({z.node for z in zones}):
            mine = [z for z in zones if z.node == nid]
            start = min(z.start_pfn for z in mine)
            node = Node(nid, handmade.PGDAT, start, total, total)
            deferred = self.number(max(start, 1), total + 1) if not self.number(0, 5) else None
            made.append(node._replace(first_deferred_pfn=deferred))
        return made

    def entries(self, layout: Layout, zones: Sequence[Zone], total: int) -> dict[int, bytes]:
        """Make the struct pages, in runs of pages that are alike."""
        made: dict[int, bytes] = {}
        pfn = 0
        while pfn < total:
            kind = self.draw(st.sampled_from(KINDS))
            nodes = (1 << layout.flags.node.width) - 1
            node, index = self.number(0, min(nodes, 3)), self.number(0, (1 << layout.flags.zone.width) - 1)
            reserved = self.draw(st.booleans())
            for _ in range(self.number(1, 2 << layout.pageblock_order)):
                if pfn == total:
                    break
                made[pfn] = self.entry(layout, zones, pfn, kind, (node, index, reserved))
                pfn += 1
        return made

    def entry(self, layout: Layout, zones: Sequence[Zone], pfn: int, kind: str, fields: tuple[int, int, bool]) -> bytes:
        """Make one struct page."""
        size = layout.page.size
        if kind == "zeroed":
            return bytes(size)
        if kind == "poisoned":
            return b"\xff" * size
        node, index, reserved = fields
        mine = next((z for z in zones if z.spans(pfn)), None)
        if kind == "own" and mine is not None:
            node, index = mine.node, mine.index
        flags = handmade.page_flags(layout, node, index, reserved or kind == "reserved")
        count = -5 if kind == "garbage" else self.noise.choice([0, 1, 1, 2, 1 << 24])
        entry = bytearray(self.noise.getrandbits(8 * size).to_bytes(size, "little"))
        order = "<" if layout.byteorder == "little" else ">"
        if kind == "half-zero":
            # Not the state of an entry that nothing wrote, although flags and _mapcount are zero.
            flags, entry, count = 0, bytearray(size), 1
        struct.pack_into(order + ("Q" if layout.word_bits == 64 else "I"), entry, layout.page.flags_offset, flags)
        struct.pack_into(order + "i", entry, layout.page.refcount_offset, count)
        if kind != "half-zero":
            struct.pack_into(order + "i", entry, layout.page.mapcount_offset, -1)
        return bytes(entry)

    def missing(self, size: int) -> tuple[tuple[int, int], ...]:
        """Choose memory that can't be read."""
        pages = size // PAGE_SIZE
        holes = []
        for _ in range(self.number(0, 2) if pages else 0):
            first = self.number(0, pages - 1)
            holes.append((BASE + first * PAGE_SIZE, BASE + (first + self.number(1, 20)) * PAGE_SIZE))
        return tuple(holes)

    def make(self) -> Made:
        """Make all of it."""
        layout = self.layout()
        size = 1 << (layout.pfn_section_shift or layout.pageblock_order + 1)
        total = size * self.number(1, 5)
        if layout.flatmem:
            total += self.number(0, layout.pageblock_nr_pages)
        zones = self.zones(layout, total)
        entries = self.entries(layout, zones, total)
        data = bytes(8) + b"".join(entries[pfn] for pfn in range(total))
        phantoms = {}
        if layout.flatmem and self.draw(st.booleans()):
            for index in range(layout.max_nr_zones, 1 << layout.flags.zone.width):
                start = self.number(0, total)
                phantoms[0, index] = Zone(0, index, f"id {index}", start, total, 0, 0, False, 0, 0x80000000)
        memory = MemoryMap(
            layout, tuple(self.nodes(zones, total)), tuple(zones), tuple(self.sections(layout, total)), phantoms
        )
        why = self.draw(st.sampled_from(sorted(MESSAGES)))
        return Made(memory, data, self.missing(len(data)), why)


@st.composite
def maps(draw: Any) -> Made:
    """Random memory maps."""
    return Maker(draw).make()


@settings(max_examples=500)
@given(maps(), st.sampled_from([1, 2, 8, 64, 1 << 15]))
def test_random_maps_are_judged_as_by_the_reference(made: Made, chunk_pages: int) -> None:
    # Zones may have the same span here; which of their findings comes first says nothing.
    assert sorted(scan(made, chunk_pages), key=repr) == sorted(reference.findings(world(made)), key=repr)


@settings(max_examples=100)
@given(maps())
def test_findings_do_not_depend_on_the_size_of_chunks(made: Made) -> None:
    sizes = (1, made.memory.layout.pageblock_nr_pages, 1 << 15)
    first, *others = (sorted(scan(made, size), key=repr) for size in sizes)
    assert all(other == first for other in others)
