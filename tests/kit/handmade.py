# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory maps made by hand, for tests of the rules that need no kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mminspect.findings import Finding
from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memorymap.layout import FLATMEM, SPARSEMEM_VMEMMAP, Field, Layout, PageFlagsLayout, StructPage
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import FreeArea, Node, Zone, ZoneState
from mminspect.rules.registry import all_rules
from mminspect.walk.engine import Scan, check_map

PG_RESERVED = 13
PGDAT = 0xFFFF888000100000

PAGE = StructPage(
    size=64,
    flags_offset=0,
    refcount_offset=0x34,
    mapcount_offset=0x30,
    flag_names=(*(f"flag {bit}" for bit in range(PG_RESERVED)), "reserved"),
)
SPARSE = Layout(
    release="6.12.0",
    machine="x86_64",
    page_size=4096,
    word_bits=64,
    byteorder="little",
    memory_model=SPARSEMEM_VMEMMAP,
    page=PAGE,
    flags=PageFlagsLayout(Field(0, 0), Field(60, 4), Field(57, 3), 4, False),
    max_nr_zones=5,
    max_order=10,
    pageblock_order=3,
    pageblock_order_from="formula",
    bits_per_pageblock=4,
    bits_from_top=False,
    pfn_section_shift=6,
    zone_struct_size=0x100,
    node_zones_offset=0,
    pgdat_members=(("node_zones", 0), ("node_zonelists", 0x500)),
)
FLAT = dataclasses.replace(
    SPARSE,
    word_bits=32,
    memory_model=FLATMEM,
    page=dataclasses.replace(PAGE, size=40, refcount_offset=28, mapcount_offset=24),
    flags=PageFlagsLayout(Field(0, 0), Field(0, 0), Field(30, 2), 0, False),
    max_nr_zones=3,
    pfn_section_shift=None,
)


class Part(NamedTuple):
    """So many adjacent pages that are alike."""

    count: int
    node: int = 0
    zone: int = 0
    reserved: bool = False
    state: int = INITIALIZED


def zone(index: int, start: int, spanned: int, node: int = 0, **more: Any) -> Zone:
    """Make a zone."""
    name = ("DMA", "DMA32", "Normal", "Movable", "Device")[index]
    more.setdefault("bitmap", None)
    return Zone(node, index, name, start, spanned, spanned, spanned, **more)


def memory_map(*zones: Zone, layout: Layout = SPARSE, nodes: Sequence[Node] = (), **more: Any) -> MemoryMap:
    """Make a memory map. Each node has all its zones, those not given are empty."""
    given = {(z.node, z.index): z for z in zones}
    nids = sorted({z.node for z in zones})
    every = [given.get((n, i), zone(i, 0, 0, n)) for n in nids for i in range(layout.max_nr_zones)]
    if layout.flatmem:
        every = [dataclasses.replace(z, bitmap=0 if z.bitmap is None else z.bitmap) for z in every]
    made = nodes or [_node(nid, [z for z in zones if z.node == nid]) for nid in nids]
    return MemoryMap(layout, tuple(made), tuple(every), (), **more)


def _node(nid: int, zones: Sequence[Zone]) -> Node:
    start = min(z.start_pfn for z in zones)
    spanned = max(z.end_pfn for z in zones) - start
    return Node(nid, PGDAT + nid * 0x10000, start, spanned, spanned)


def page_flags(layout: Layout, node: int, index: int, reserved: bool = False) -> int:
    """Encode ``page->flags``."""
    fields = layout.flags
    return node << fields.node.shift | index << fields.zone.shift | layout.page.reserved * reserved


def chunk(memory: MemoryMap, start: int, *parts: Part, section: Section | None = None) -> Chunk:
    """Make a chunk of adjacent online pages."""
    layout = memory.layout
    pages = [part for part in parts for _ in range(part.count)]
    flags = np.array([page_flags(layout, p.node, p.zone, p.reserved) for p in pages], f"u{layout.word_bits // 8}")
    links = np.array([layout.link(p.node, p.zone) for p in pages], np.uint32)
    states = np.array([p.state for p in pages], np.uint8)
    return Chunk(start, flags, links, states, section or Section(0, ((start, start + len(pages)),), 0, 0x1000), layout)


def cut(whole: Chunk, *sizes: int) -> list[Chunk]:
    """Cut a chunk into chunks of so many pages; the last size repeats."""
    result = []
    position, rest = 0, list(sizes)
    while position < len(whole.link):
        size = rest.pop(0) if len(rest) > 1 else rest[0]
        start = whole.start_pfn + position
        result.append(whole.part(start, min(start + size, whole.end_pfn)))
        position += size
    return result


class _Chunks:
    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks

    def chunks(self) -> Iterator[Chunk]:
        return iter(self._chunks)


def nothing_known(address: int) -> dict[str, object]:
    """Say nothing about an address."""
    return {"kind": "unknown", "text": "unknown"}


def scan(memory: MemoryMap, *chunks: Chunk, rule: str | None = None) -> list[Finding]:
    """Apply one rule or all to chunks."""
    rules = [r for r in all_rules().values() if rule in (None, r.id)]
    assert rules
    walk: Any = _Chunks(chunks)
    return Scan(memory, walk, rules, nothing_known).findings()


def found(memory: MemoryMap, *parts: Part, rule: str, start: int = 0) -> list[tuple[str, int, int]]:
    """Apply a rule to adjacent pages; give (severity, start, end) of its findings."""
    return [(f.severity, f.start_pfn, f.end_pfn) for f in scan(memory, chunk(memory, start, *parts), rule=rule)]


def apply_to_map(memory: MemoryMap, rule: str) -> list[Finding]:
    """Apply what a rule checks without struct pages."""
    return check_map(memory, [all_rules()[rule]])


def zone_state(**more: Any) -> ZoneState:
    """Make the state of a zone of node 0."""
    return ZoneState(**{"free_areas": (FreeArea(0, (), (), ()),), "locked": False, "node": 0, "pgdat": PGDAT, **more})
