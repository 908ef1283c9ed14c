# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules about free and compound pages: on struct pages made by hand and in dumps with planted faults."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import PageHead, PageTail, compound_head, compound_order
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.findings import Finding
from mminspect.layout.read import read_memory_map
from mminspect.memmap.chunk import INITIALIZED, UNMAPPED, Chunk
from mminspect.memmap.reader import Memmap
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import FreeArea, ZoneState
from mminspect.rules import compound_page
from mminspect.rules.compound_page import compound_pages
from mminspect.rules.free_list import NO_LIST, ends_of_chains
from mminspect.rules.registry import all_rules
from mminspect.walk.engine import Scan
from tests.conftest import Edited, Opened, Scanned
from tests.handmade import PAGE, PGDAT, SPARSE, memory_map, nothing_known, zone
from tests.support import AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, NAMES, S390X
from tests.test_planted_faults import Fault

NEW = ("buddy-page", "compound-page", "free-list", "free-page-state")
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
LAYOUT = dataclasses.replace(
    SPARSE, release="6.1.0", page=MEMBERS, migratetypes=("UNMOVABLE", "MOVABLE", "RECLAIMABLE"), max_order=4
)
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


@pytest.mark.parametrize("layout", [LAYOUT, MASKED])
@pytest.mark.parametrize("rule", NEW)
def test_healthy_machine(rule: str, layout: Any) -> None:
    assert machine(layout).scan(rule) == []
    assert machine(layout).scan(rule, size=16) == []


@given(st.integers(0, 1 << 32), st.sampled_from([LAYOUT, MASKED]))
@settings(max_examples=60)
def test_any_machine_that_the_allocator_can_make_is_healthy(seed: int, layout: Any) -> None:
    choice = random.Random(seed)
    made, pfn = Machine(layout), 0
    while pfn < PAGES:
        order = choice.randint(0, min(4, (pfn & -pfn).bit_length() - 1 if pfn else 4))
        kind = choice.choice(("free", "compound", "used"))
        if kind == "free":
            made.free(pfn, order)
        elif kind == "compound" and order:
            made.compound(pfn, order)
        pfn += 1 << order
    for rule in NEW:
        assert made.scan(rule) == []


# buddy-page


@pytest.mark.parametrize(
    ("pfn", "order", "expected"),
    [
        (40, 5, ("order", "error", 40, 41)),
        (40, 1 << 63, ("order", "error", 40, 41)),
        (41, 1, ("alignment", "error", 41, 42)),
        (4, 1, ("inside", "error", 4, 5)),
    ],
)
def test_blocks_that_cannot_be(pfn: int, order: int, expected: Any) -> None:
    made = Machine()
    made.free(0, 3)
    made.set_int([pfn], 0x30, 0xF0000000)
    made.words[pfn, 5] = order
    assert rows(made.scan("buddy-page")) == [expected]


def test_free_block_with_pages_of_two_zones() -> None:
    made = machine()
    made.link[40:48] = made.layout.link(0, 2)
    assert rows(made.scan("buddy-page")) == [("zone", "error", 32, 33)]
    # The boundary may be at the edge of a block.
    made.link[32:40] = made.layout.link(0, 2)
    assert made.scan("buddy-page") == []


def test_free_block_that_ends_behind_the_memory() -> None:
    made = Machine()
    made.free(48, 4)
    memory = made.memory()
    (whole,) = made.chunks()
    short = Chunk(
        32, whole.flags[32:56], whole.link[32:56], whole.state[32:56], whole.section, whole.layout, whole.words[32:56]
    )  # type: ignore[index]
    found = Scan(memory, None, [all_rules()["buddy-page"]], nothing_known).findings_in([short])  # type: ignore[arg-type]
    assert rows(found) == [("end", "error", 48, 49)]


def test_what_is_not_readable_is_no_free_page() -> None:
    made = machine()
    made.words[0, 5] = 99
    made.state[0] = UNMAPPED
    assert made.scan("buddy-page") == []


# free-page-state


def test_flags_and_references_of_free_pages() -> None:
    made = machine()
    made.words[33, 0] |= np.uint64(1 << LOCKED)
    made.set_int([34, 35], 0x34, 2)
    found = made.scan("free-page-state")
    assert [(f.start_pfn, f.end_pfn, f.detail["flags"], f.detail["refcount"]) for f in found] == [
        (33, 34, ["locked"], 0),
        (34, 36, [], 2),
    ]
    assert all(f.detail["block"] == [32, 48] and f.severity == "error" for f in found)


def test_page_reported_is_legal_on_the_first_page_only() -> None:
    made = machine()
    made.words[32, 0] |= np.uint64(1 << UPTODATE)
    assert made.scan("free-page-state") == []
    made.words[33, 0] |= np.uint64(1 << UPTODATE)
    assert [(f.start_pfn, f.detail["flags"]) for f in made.scan("free-page-state")] == [(33, ["uptodate"])]


def test_poisoned_hardware_may_be_free() -> None:
    made = machine()
    made.words[33, 0] |= np.uint64(made.layout.page.flag("hwpoison"))
    assert made.scan("free-page-state") == []


def test_pages_outside_free_blocks_may_have_flags() -> None:
    made = machine()
    made.words[[16, 22, 24, 63], 0] |= np.uint64(1 << LOCKED)
    assert made.scan("free-page-state") == []


# free-list


@pytest.mark.parametrize(("locked", "severity"), [(False, "error"), (True, "note")])
def test_nr_free_that_does_not_match(locked: bool, severity: str) -> None:
    made = machine()
    made.locked = locked
    made.extra[3] = 1
    (found,) = made.scan("free-list")
    assert (found.severity, found.detail["problem"], found.detail["order"]) == (severity, "count", 3)
    assert (found.detail["nr_free"], found.detail["counted"]) == (3, 2)


def test_free_page_that_is_on_no_list() -> None:
    made = machine()
    areas = made.areas()
    made.set_int([40], 0x30, 0xF0000000)
    made.words[40, 5] = 3
    made.words[40, 1] = made.words[40, 2] = made.address(40) + 8
    found = made.scan("free-list", areas)
    assert [(f.detail["problem"], f.detail["pfns"]) for f in found] == [("count", []), ("cycle", [40])]


def test_link_that_leads_elsewhere() -> None:
    made = machine()
    areas = made.areas()
    made.words[8, 1] = made.address(50)
    (found,) = made.scan("free-list", areas)
    # Page 8 leads away, and its successor, the list's head, doesn't lead back to it.
    assert (found.detail["problem"], found.detail["pfns"], found.detail["next"]) == ("link", [8], made.address(50))


def test_link_that_does_not_lead_back() -> None:
    made = machine()
    areas = made.areas()
    made.words[8, 2] = made.address(50)
    (found,) = made.scan("free-list", areas)
    assert (found.detail["problem"], found.detail["pfns"]) == ("link", [0])


def test_page_on_the_list_of_another_order() -> None:
    made = machine()
    areas = made.areas()
    made.words[17, 5] = 2
    found = made.scan("free-list", areas)
    assert {(f.detail["problem"], f.detail["order"]) for f in found} >= {("count", 0), ("count", 2), ("link", 0)}
    assert all(f.severity == "error" for f in found)


def test_page_on_the_list_of_another_migratetype() -> None:
    assert machine().scan("free-list") == []
    made = machine(STRICT)
    (found,) = made.scan("free-list")
    assert (found.severity, found.start_pfn, found.end_pfn) == ("warning", 20, 22)
    assert (found.detail["list"], found.detail["pageblock"]) == ("UNMOVABLE", "MOVABLE")
    # Block 2 has 8 pages from 16 on.
    made.bits = b"\x11\x10\x11\x11"
    assert [f.detail["pfns"] for f in made.scan("free-list")] == [[17]]


def test_zone_that_cannot_be_read_is_not_judged() -> None:
    made = machine()
    made.extra[0] = 5
    made.state[60] = UNMAPPED
    assert made.scan("free-list") == []


def test_too_many_free_pages_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mminspect.rules.free_list.MAX_FOLLOWED", 4)
    made = machine()
    areas = made.areas()
    made.words[8, 1] = made.address(50)
    made.extra[3] = 1
    (found,) = made.scan("free-list", areas, size=16)
    assert (found.severity, found.detail) == ("note", {"problem": "not followed", "pages": 5})
    found, note = sorted(made.scan("free-list", size=16), key=lambda f: f.severity)
    assert (found.detail["problem"], note.detail["problem"]) == ("count", "not followed")


def test_ends_of_chains() -> None:
    # Two heads; 2 -> 3 -> 1; 4 -> 0; 5 <-> 6; 7 -> 7; 8 -> 5.
    chains = np.array([4, 2, 3, 1, 0, 6, 5, 7, 5])
    assert ends_of_chains(chains, 2).tolist() == [0, 1, 1, 1, 0, *[NO_LIST] * 4]
    long = np.roll(np.arange(1000), -1)
    assert set(ends_of_chains(long, 1).tolist()) == {0}


# compound-page


@pytest.mark.parametrize("layout", [LAYOUT, MASKED])
def test_tail_that_is_none(layout: Any) -> None:
    made = machine(layout)
    made.words[26:28, 1] = 0x1000
    assert rows(made.scan("compound-page")) == [("tail", "error", 26, 28)]
    made.set_int([24], 0x34, 0)
    assert rows(made.scan("compound-page")) == [("tail", "warning", 26, 28)]


@pytest.mark.parametrize("target", [18, 30, 1000, 24.5])
def test_tail_of_another_head(target: float) -> None:
    made = machine()
    made.words[26, 1] = made.address(0) + int(target * 64) | 1
    assert rows(made.scan("compound-page")) == [("tail", "error", 26, 27)]


@pytest.mark.parametrize("layout", [LAYOUT, MASKED])
def test_tails_without_a_head(layout: Any) -> None:
    made = machine(layout)
    made.words[24, 0] = 1 << 57
    assert rows(made.scan("compound-page")) == [("orphan", "error", 25, 32)]


def test_order_that_cannot_be() -> None:
    made = machine()
    made.words.view(np.uint8)[25, 0x10] = 77
    assert rows(made.scan("compound-page")) == [("order", "error", 24, 25), ("orphan", "error", 25, 32)]


def test_compound_page_across_zones() -> None:
    made = machine()
    made.link[28:32] = made.layout.link(0, 2)
    (found,) = made.scan("compound-page")
    assert rows([found]) == [("zone", "error", 28, 32)]
    assert found.detail == {"problem": "zone", "head": 24, "order": 3}


def test_compound_page_larger_than_a_chunk() -> None:
    made = Machine()
    made.compound(32, 5)
    assert made.scan("compound-page", size=16) == []
    made.words[60, 1] = made.address(33) | 1
    assert rows(made.scan("compound-page", size=16)) == [("orphan", "error", 60, 61)]


def test_shared_struct_pages_of_huge_pages_are_legal() -> None:
    # A page of 256 bytes holds four struct pages.
    made = Machine(dataclasses.replace(LAYOUT, page_size=256))
    made.compound(32, 4)
    for first in range(36, 48, 4):
        made.words[first] = made.words[32]
        made.words[first + 1 : first + 4] = made.words[33:36]
    assert made.scan("compound-page") == []
    made.words[36, 0] = 1 << 57
    assert rows(made.scan("compound-page")) == [("tail", "error", 36, 37)]


# Real dumps


@pytest.mark.parametrize("name", NAMES)
def test_stock_kernels_keep_these_rules(name: str, scanned: Scanned) -> None:
    assert [f for f in scanned(name).findings if f.rule in NEW] == []


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, S390X, ARM64])
def test_compound_pages_are_those_of_drgn(name: str, opened: Opened) -> None:
    target = opened(name)[0]
    memory = read_memory_map(target)
    seen = 0
    for chunk in Memmap(target.prog, memory).chunks():
        found = compound_pages(chunk, memory.layout)
        if found is None:
            continue
        vmemmap = target.prog["vmemmap"]
        pick = random.Random(1).sample(range(len(chunk.link)), 30) + found.heads[:10].tolist()
        heads = dict(zip(found.heads.tolist(), found.orders.tolist()))
        leads = dict(zip(found.tails.tolist(), found.leads.tolist()))
        for index in pick:
            page = vmemmap + chunk.start_pfn + index
            assert bool(PageTail(page)) == (index in leads)
            assert bool(PageHead(page)) == (index in heads)
            if PageTail(page):
                assert compound_head(page) == vmemmap + chunk.start_pfn + leads[index]
            if index in heads:
                seen += 1
                assert compound_order(page).value_() == heads[index]
    assert seen >= 10


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, S390X, ARM64])
def test_free_pages_are_those_on_the_lists(name: str, opened: Opened) -> None:
    """Walk the lists of one zone by drgn."""
    target = opened(name)[0]
    prog = target.prog
    memory = read_memory_map(target)
    layout = memory.layout
    chosen = max(memory.populated_zones, key=lambda z: z.spanned)
    there = Object(prog, "struct zone", address=chosen.address)
    expected = {
        (page.value_(), order)
        for order, area in enumerate(there.free_area)
        for head in area.free_list
        for page in list_for_each_entry("struct page", head.address_of_(), "lru")
    }
    found = set()
    for chunk in Memmap(prog, memory).chunks():
        free = chunk.free_pages
        assert free is not None
        for at, order in zip(free.at.tolist(), free.order.tolist()):
            if chunk.link[at] == layout.link(chosen.node, chosen.index):
                pfn = chunk.start_pfn + at
                found.add(((chunk.section.mem_map + pfn * layout.page.size) % (1 << layout.word_bits), order))
    assert found == expected
    assert len(found) > 20


@pytest.fixture
def plant(edited: Edited, opened: Opened, scanned: Scanned) -> Any:
    """Give a copy of a stored vmcore to plant faults in."""
    return lambda name: Fault(name, edited(name), opened(name)[0].prog, scanned(name))


PLACES = [AMD64_HEALTHY, AMD64_NUMA, S390X, ARM64, I386_HOLE]


def a_free_block(fault: Fault, order: int) -> int:
    """Find a free block of an order at least, by drgn: (pfn, order)."""
    node, index = {AMD64_NUMA: (1, 1), ARM64: (0, 0), S390X: (0, 0)}.get(fault.name, (0, 1))
    areas = fault.zone_member(node, index, "free_area")
    base = fault.page(0)
    for area in list(areas)[order:]:
        for head in area.free_list:
            for page in list_for_each_entry("struct page", head.address_of_(), "lru"):
                return int(page.value_() - base) // fault.size
    raise AssertionError("nothing is free")


@pytest.mark.parametrize("name", PLACES)
def test_planted_order(name: str, plant: Any) -> None:
    fault = plant(name)
    pfn = a_free_block(fault, 3)
    offset = fault.prog.type("struct page").member("private").offset
    fault.editor.write_word(fault.page(pfn) + offset, 99)
    new, gone = fault.changes()
    assert gone == set()
    assert [f.detail["problem"] for f in new if f.rule == "buddy-page"] == ["order"]
    assert {f.detail["problem"] for f in new if f.rule == "free-list"} == {"count", "link"}
    assert {f.rule for f in new} == {"buddy-page", "free-list"}


@pytest.mark.parametrize("name", PLACES)
def test_planted_flags_and_references(name: str, plant: Any) -> None:
    fault = plant(name)
    pfn = a_free_block(fault, 3) + 2
    fault.editor.write_word(fault.page(pfn), fault.flags_of(pfn) | 1)
    offset = fault.prog.type("struct page").member("_refcount").offset
    fault.editor.write(fault.page(pfn + 1) + offset, b"\1\0\0\0" if fault.editor.order == "<" else b"\0\0\0\1")
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.start_pfn, f.detail["flags"], f.detail["refcount"]) for f in new] == [
        ("free-page-state", pfn, ["locked"], 0),
        ("free-page-state", pfn + 1, [], 1),
    ]


@pytest.mark.parametrize("name", PLACES)
def test_planted_list(name: str, plant: Any) -> None:
    fault = plant(name)
    pfn = a_free_block(fault, 3)
    offset = fault.prog.type("struct page").member("lru").offset
    fault.editor.write_word(fault.page(pfn) + offset, 0x1000)
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.detail["problem"], f.detail["next"]) for f in new] == [("free-list", "link", 0x1000)]
    assert pfn in new[0].detail["pfns"]


@pytest.mark.parametrize("name", PLACES)
def test_planted_tail(name: str, plant: Any, opened: Opened) -> None:
    fault = plant(name)
    memory = read_memory_map(opened(name)[0])
    layout = memory.layout
    place = None
    for chunk in Memmap(fault.prog, memory).chunks():
        found = compound_pages(chunk, layout)
        if found is not None and int((found.orders >= 2).sum()):
            place = chunk.start_pfn + int(found.heads[found.orders >= 2][0])
            break
    assert place is not None
    fault.editor.write_word(fault.page(place + 2) + layout.page.compound_head_offset, 0x1000)
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.start_pfn, f.end_pfn, f.detail["head"]) for f in new] == [
        ("compound-page", place + 2, place + 3, place)
    ]


def test_largest_order_is_that_of_the_largest_huge_page() -> None:
    # 16 GiB of pages of 4 KiB.
    assert 4096 << compound_page.MAX_COMPOUND_ORDER == 16 << 30
