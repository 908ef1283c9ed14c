# SPDX-License-Identifier: LGPL-2.1-or-later
"""Struct pages and free lists made by hand, for tests of the rules that look at more than links."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mminspect.findings import Finding
from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import FreeArea, ZoneState
from mminspect.rules.registry import all_rules
from mminspect.walk.engine import Scan
from tests.kit.handmade import PAGE, PGDAT, SPARSE, memory_map, nothing_known, zone

HEAD, LOCKED, UPTODATE = 6, 0, 2


NAMES_OF_FLAGS = (
    "locked",
    "referenced",
    "uptodate",
    "dirty",
    "lru",
    "active",
    "head",
    *(f"f{i}" for i in range(6)),
    "hw",
)


MEMBERS = dataclasses.replace(
    PAGE,
    lru_offset=8,
    private_offset=40,
    compound_head_offset=8,
    compound_mask=False,
    order_offset=0x10,
    buddy=0xF0000000,
    flag_names=(*NAMES_OF_FLAGS[:-1], "reserved", "hwpoison"),
)


LAYOUT = dataclasses.replace(SPARSE, page=MEMBERS, migratetypes=("UNMOVABLE", "MOVABLE", "RECLAIMABLE"), max_order=4)


STRICT = dataclasses.replace(LAYOUT, free_lists_follow_pageblocks=True)


MASKED = dataclasses.replace(LAYOUT, page=dataclasses.replace(MEMBERS, compound_mask=True))


VMEMMAP = 0xFFFFEA0000000000


ZONE = 0xFFFF888000200000


PAGES = 64


class Machine:
    """A machine of 64 pages in one zone of node 0. It writes struct pages and links free lists as the kernel does."""

    def __init__(self, layout: Any = LAYOUT) -> None:
        self.layout = layout
        self.words = np.zeros((PAGES, 8), "<u8")
        self.link = np.full(PAGES, layout.link(0, 1), np.uint32)
        self.state = np.full(PAGES, INITIALIZED, np.uint8)
        self.locked = False
        self.bits = b"\x11" * 4
        # The members of each list, by order and migratetype; and differences of nr_free from their number.
        self.lists: dict[tuple[int, int], list[int]] = {}
        self.extra: dict[int, int] = {}
        self.words[:, 0] = 1 << 57
        self.set_int(range(PAGES), 0x30, 0xFFFFFFFF)
        self.set_int(range(PAGES), 0x34, 1)

    def set_int(self, pfns: Sequence[int], offset: int, value: int) -> None:
        self.words.view("<u4")[list(pfns), offset // 4] = value

    def address(self, pfn: int) -> int:
        return VMEMMAP + pfn * 64

    def head(self, order: int, kind: int) -> int:
        return ZONE + order * 0x40 + kind * 0x10

    def free(self, pfn: int, order: int, kind: int = 1) -> None:
        """Put a block on a list."""
        self.set_int(range(pfn, min(pfn + (1 << min(order, 6)), PAGES)), 0x34, 0)
        self.set_int([pfn], 0x30, 0xF0000000)
        self.words[pfn, 5] = order
        self.lists.setdefault((order, kind), []).append(pfn)

    def compound(self, pfn: int, order: int) -> None:
        """``prep_compound_page()``."""
        self.words[pfn, 0] |= np.uint64(1 << HEAD)
        for tail in range(pfn + 1, pfn + (1 << order)):
            self.set_int([tail], 0x34, 0)
            mask = ((1 << 64) - 1) & ~((1 << (order + 6)) - 1)
            self.words[tail, 1] = (mask if self.layout.page.compound_mask else self.address(pfn)) | 1
        self.words.view(np.uint8)[pfn + 1, 0x10] = order

    def areas(self) -> tuple[FreeArea, ...]:
        """Link the lists."""
        result = []
        for order in range(self.layout.max_order + 1):
            first, last = [], []
            for kind in range(3):
                ring = [self.head(order, kind)]
                ring += [self.address(pfn) + 8 for pfn in self.lists.get((order, kind), ())]
                for position, pfn in enumerate(self.lists.get((order, kind), ()), 1):
                    self.words[pfn, 1] = ring[(position + 1) % len(ring)]
                    self.words[pfn, 2] = ring[position - 1]
                first.append(ring[1 % len(ring)])
                last.append(ring[-1])
            count = sum(len(pfns) for (o, _), pfns in self.lists.items() if o == order) + self.extra.get(order, 0)
            result.append(FreeArea(count, tuple(self.head(order, k) for k in range(3)), tuple(first), tuple(last)))
        return tuple(result)

    def memory(self, areas: tuple[FreeArea, ...] | None = None) -> MemoryMap:
        state = ZoneState(areas or self.areas(), self.locked, 0, PGDAT)
        made = memory_map(zone(1, 0, PAGES, state=state), zone(2, PAGES, PAGES), layout=self.layout)
        return dataclasses.replace(made, sections=(self.section(),))

    def section(self) -> Section:
        return Section(0, ((0, PAGES),), VMEMMAP, 0x1000, pageblock_flags=self.bits + bytes(4))

    def chunks(self, size: int = PAGES) -> list[Chunk]:
        section = self.section()
        return [
            Chunk(
                start,
                self.words[start : start + size, 0].astype(np.uint64),
                self.link[start : start + size],
                self.state[start : start + size],
                section,
                self.layout,
                self.words[start : start + size],
            )
            for start in range(0, PAGES, size)
        ]

    def scan(self, rule: str, areas: tuple[FreeArea, ...] | None = None, size: int = PAGES) -> list[Finding]:
        memory = self.memory(areas)
        walk: Any = type("Walk", (), {"chunks": lambda _: iter(self.chunks(size))})()
        return Scan(memory, walk, [all_rules()[rule]], nothing_known).findings()


def rows(found: Sequence[Finding]) -> list[tuple[str, str, int, int]]:
    return [(f.detail["problem"], f.severity, f.start_pfn, f.end_pfn) for f in found]


def machine(layout: Any = LAYOUT) -> Machine:
    """Make a machine with some free and some compound pages."""
    made = Machine(layout)
    made.free(0, 3)
    made.free(8, 3)
    made.free(17, 0)
    made.free(20, 1, kind=0)
    made.free(32, 4)
    made.compound(24, 3)
    made.compound(18, 1)
    made.compound(48, 4)
    return made
