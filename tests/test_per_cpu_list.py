# SPDX-License-Identifier: LGPL-2.1-or-later
"""Per-CPU lists: how they are followed, what the rule says of them, and who is on them in stored vmcores."""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from drgn import FaultError, Object
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu_ptr
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.findings import Finding
from mminspect.layout.read import read_memory_map
from mminspect.memmap import percpu
from mminspect.memmap.percpu import Walker, with_per_cpu_pages
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.percpu import ListFault, PerCpuList, PerCpuPages
from mminspect.memorymap.sections import Section
from mminspect.rules.registry import all_rules
from tests.conftest import Cli, Edited, Opened, Scanned, Unpacked
from tests.handmade import FLAT, PAGE, SPARSE, memory_map, page_flags, zone
from tests.support import AMD64_HEALTHY, NAMES
from tests.test_planted_faults import Fault

RULE = all_rules()["per-cpu-list"]
MEMBERS = dataclasses.replace(
    PAGE,
    lru_offset=8,
    private_offset=40,
    compound_head_offset=8,
    compound_mask=False,
    order_offset=0x10,
    buddy=0xF0000000,
    flag_names=("locked",),
)
LAYOUT = dataclasses.replace(SPARSE, page=MEMBERS, migratetypes=("UNMOVABLE", "MOVABLE", "RECLAIMABLE"))
VMEMMAP, HEAD, PAGES = 0xFFFFEA0000000000, 0xFFFF888000200000, 64
LRU = 8


class Memory:
    """The struct pages of one zone and the head of one list, as a program that can be read."""

    def __init__(self, pfns: Sequence[int] = ()) -> None:
        self.pages = bytearray(PAGES * 64)
        self.head = bytearray(16)
        for pfn in range(PAGES):
            self.put(pfn, 0, "<Q", 1 << 57)
            self.put(pfn, 0x30, "<I", 0xFFFFFFFF)
        ring = [HEAD, *(self.lru(pfn) for pfn in pfns)]
        for position, node in enumerate(ring):
            self.link(node, ring[(position + 1) % len(ring)], ring[position - 1])

    @staticmethod
    def lru(pfn: int) -> int:
        return VMEMMAP + pfn * 64 + LRU

    def put(self, pfn: int, offset: int, code: str, value: int) -> None:
        struct.pack_into(code, self.pages, pfn * 64 + offset, value)

    def link(self, node: int, following: int | None = None, before: int | None = None) -> None:
        data, at = (self.head, 0) if node == HEAD else (self.pages, node - VMEMMAP)
        for value, offset in ((following, 0), (before, 8)):
            if value is not None:
                struct.pack_into("<Q", data, at + offset, value)

    def type(self, name: str) -> Any:
        raise LookupError(name)

    def read(self, address: int, size: int) -> bytes:
        for base, data in ((VMEMMAP, self.pages), (HEAD, self.head)):
            if base <= address and address + size <= base + len(data):
                return bytes(data[address - base : address - base + size])
        raise FaultError("could not find memory segment", address)

    def follow(self) -> tuple[list[int], list[ListFault], bool]:
        section = Section(0, ((0, PAGES),), VMEMMAP, 0x1000)
        memory = dataclasses.replace(memory_map(zone(1, 0, PAGES), layout=LAYOUT), sections=(section,))
        prog: Any = self
        return Walker(prog, memory).follow(memory.populated_zones[0], HEAD)


@given(st.lists(st.integers(0, PAGES - 1), unique=True))
def test_list_is_followed_to_its_end(pfns: list[int]) -> None:
    assert Memory(pfns).follow() == (pfns, [], True)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("layout", [LAYOUT, FLAT])
def test_other_machines(layout: Layout, byteorder: str) -> None:
    """Struct pages of 32 bits, and big-endian ones."""
    members = dataclasses.replace(MEMBERS, lru_offset=layout.word_bits // 8)
    layout = dataclasses.replace(layout, byteorder=byteorder, page=members)
    word = ("<" if byteorder == "little" else ">") + ("Q" if layout.word_bits == 64 else "I")
    base, head, lru = VMEMMAP % (1 << layout.word_bits), HEAD % (1 << layout.word_bits), members.lru_offset
    size = layout.page.size
    data = bytearray(PAGES * size)
    for pfn in range(PAGES):
        struct.pack_into(word, data, pfn * size, page_flags(layout, 0, 2 if pfn == 9 else 1))
    pfns = [7, 3, 9, 60]
    ring = [head, *(base + pfn * size + lru for pfn in pfns)]
    for at, pfn in enumerate(pfns, 1):
        struct.pack_into(word + word[1], data, pfn * size + lru, ring[(at + 1) % 5], ring[at - 1])
    heads = struct.pack(word + word[1], ring[1], ring[-1])

    class Program:
        def type(self, name: str) -> Any:
            raise LookupError(name)

        def read(self, address: int, count: int) -> bytes:
            if address == head:
                return heads
            return bytes(data[address - base : address - base + count])

    section = Section(0, ((0, PAGES),), base, 0x1000)
    memory = dataclasses.replace(memory_map(zone(1, 0, PAGES, bitmap=1), layout=layout), sections=(section,))
    prog: Any = Program()
    found = Walker(prog, memory).follow(memory.populated_zones[0], head)
    assert found == (pfns, [ListFault("zone", 9, layout.link(0, 2), True)], True)


def test_pages_that_cannot_be_on_a_list() -> None:
    for offset, code, value, fault in (
        (0x30, "<I", 0xF0000000, ListFault("buddy", 5, -0x10000000, True)),
        (0x34, "<I", 3, ListFault("references", 5, 3, True)),
        (0x34, "<i", -1, ListFault("references", 5, -1, True)),
    ):
        memory = Memory([4, 5, 6])
        memory.put(5, offset, code, value)
        assert memory.follow() == ([4], [fault], False)
    memory = Memory([4, 5, 6])
    memory.put(5, 0, "<Q", 2 << 57)
    assert memory.follow() == ([4, 5, 6], [ListFault("zone", 5, LAYOUT.link(0, 2), True)], True)
    # Not linked both ways.
    memory.link(memory.lru(6), None, HEAD)
    assert ListFault("zone", 5, LAYOUT.link(0, 2), False) in memory.follow()[1]


def test_links_that_lead_elsewhere() -> None:
    for value in (0xDEAD000000000100, 0, Memory.lru(6) + 8, Memory.lru(PAGES)):
        memory = Memory([4, 5, 6])
        memory.link(memory.lru(5), value)
        assert memory.follow() == ([4, 5], [ListFault("link", 5, value)], False)
        memory.link(HEAD, value)
        assert memory.follow() == ([], [ListFault("link", None, value)], False)


def test_cycle() -> None:
    memory = Memory([4, 5, 6])
    memory.link(memory.lru(6), memory.lru(5))
    assert memory.follow() == ([4, 5, 6], [ListFault("cycle", 6, memory.lru(5))], False)


def test_links_that_do_not_lead_back() -> None:
    memory = Memory([4, 5, 6])
    memory.link(memory.lru(5), None, 0x1000)
    memory.link(HEAD, None, memory.lru(5))
    assert memory.follow() == ([4, 5, 6], [ListFault("prev", 5, 0x1000), ListFault("prev", None, memory.lru(5))], True)


def test_number_of_pages_and_of_faults_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(range(PAGES))
    monkeypatch.setattr(percpu, "MAX_FOLLOWED", 10)
    assert memory.follow() == (list(range(10)), [], False)
    monkeypatch.setattr(percpu, "MAX_FOLLOWED", 1000)
    monkeypatch.setattr(percpu, "MAX_FAULTS", 3)
    for pfn in range(PAGES):
        memory.link(memory.lru(pfn), None, 0x1000)
    pfns, faults, complete = memory.follow()
    assert (len(pfns), len(faults), complete) == (3, 3, False)


@given(st.integers(0, 1 << 32))
@settings(max_examples=200)
def test_damaged_lists_come_to_an_end(seed: int) -> None:
    choice = random.Random(seed)
    memory = Memory(choice.sample(range(PAGES), 20))
    for _ in range(choice.randint(1, 10)):
        at = choice.randrange(0, len(memory.pages), 8)
        value = choice.choice((choice.getrandbits(64), Memory.lru(choice.randrange(PAGES)), HEAD, 0))
        struct.pack_into("<Q", memory.pages, at, value)
    pfns, faults, complete = memory.follow()
    assert len(set(pfns)) == len(pfns)
    assert complete or faults


# The rule


def listed(order: int | None, *pfns: int, **more: Any) -> PerCpuList:
    made: dict[str, Any] = {"faults": (), "complete": True, **more}
    return PerCpuList(order, "MOVABLE", np.array(pfns, np.uint64), **made)


def judge(*pages: PerCpuPages) -> list[Finding]:
    memory: MemoryMap = memory_map(zone(1, 0, 1024), zone(2, 1024, 1024), layout=LAYOUT)
    assert RULE.check_map is not None
    return list(RULE.check_map(dataclasses.replace(memory, per_cpu=pages)))


def pages(count: int, *lists: PerCpuList, locked: bool | None = False, cpu: int = 0, index: int = 1) -> PerCpuPages:
    return PerCpuPages(cpu, 0, index, count, locked, lists)


def test_healthy_lists() -> None:
    assert judge() == []
    assert judge(pages(0), pages(5, listed(0, 1), listed(2, 4)), pages(512, listed(None, 512), cpu=1)) == []


@pytest.mark.parametrize(("locked", "severity"), [(False, "error"), (True, "note"), (None, "note")])
def test_count_that_does_not_match(locked: bool | None, severity: str) -> None:
    (found,) = judge(pages(7, listed(0, 1, 2), listed(1, 4), locked=locked))
    assert (found.severity, found.start_pfn, found.end_pfn) == (severity, 0, 1024)
    assert found.detail == {
        "problem": "count",
        "cpu": 0,
        "locked": locked,
        "pages": 0,
        "pfns": [],
        "count": 7,
        "counted": 4,
    }
    assert ("stopped while it changed" in found.message) == (locked is not False)


def test_huge_pages_have_any_size() -> None:
    assert judge(pages(2 + 2 * 256, listed(0, 1, 2), listed(None, 256, 512))) == []
    assert [f.detail["counted"] for f in judge(pages(2 + 2 * 255, listed(0, 1, 2), listed(None, 256, 512)))] == [2]
    assert len(judge(pages(2, listed(0, 1, 2), listed(None, 256)))) == 1


def test_count_of_a_list_that_was_not_followed_to_its_end_is_not_judged() -> None:
    assert judge(pages(7, listed(0, 1, complete=False))) == []


@pytest.mark.parametrize(
    ("problem", "pfn", "linked", "severities"),
    [
        ("zone", 5, True, ("error", "error", "error")),
        ("buddy", 5, False, ("error", "warning", "warning")),
        ("references", 5, False, ("error", "warning", "warning")),
        ("cycle", 5, False, ("error", "warning", "warning")),
        ("link", None, False, ("error", "warning", "warning")),
        ("prev", 5, False, ("error", "note", "note")),
    ],
)
def test_faults(problem: str, pfn: int | None, linked: bool, severities: tuple[str, ...]) -> None:
    for locked, severity in zip((False, True, None), severities):
        faulty = listed(1, faults=(ListFault(problem, pfn, 2, linked),), complete=False)
        (found,) = judge(pages(3, faulty, locked=locked))
        assert (found.severity, found.detail["problem"], found.detail["locked"]) == (severity, problem, locked)
        assert (found.start_pfn, found.end_pfn) == ((5, 7) if pfn is not None else (0, 1024))
        assert found.detail["pfns"] == ([5] if pfn is not None else [])


def test_page_on_two_lists() -> None:
    one, other = listed(0, 1, 9), listed(3, 8)
    (found,) = judge(pages(2, one), pages(8, other, cpu=1, index=2, locked=None))
    assert (found.severity, found.start_pfn, found.end_pfn) == ("error", 9, 10)
    assert found.message.endswith("pfn 0x9 is on the list of CPU 1, order 3 MOVABLE too")
    assert (found.detail["problem"], found.detail["cpu"], found.detail["value"]) == ("twice", 0, 8)


# Stored vmcores


def per_cpu_pages(prog: Any, zone: Object, cpu: int) -> Object:
    """Follow a zone's per-CPU pointer by drgn."""
    old = hasattr(zone, "pageset")
    pointer = (zone.pageset if old else zone.per_cpu_pageset).read_()
    there = per_cpu_ptr(pointer, cpu)
    return there.pcp if old else there[0]


@pytest.mark.parametrize("name", [*NAMES, "ppc64el-6.12", "ppc64el-6.12-64k", "riscv64-6.12"])
def test_lists_are_those_of_drgn(name: str, opened: Opened) -> None:
    """Walk all lists by drgn's helpers."""
    prog = opened(name)[0].prog
    memory = with_per_cpu_pages(opened(name)[0], read_memory_map(opened(name)[0]))
    if not memory.per_cpu:
        pytest.skip("a vmcore without per-CPU lists")
    base = prog["mem_map"] if memory.layout.flatmem else prog["vmemmap"]
    seen = set()
    for found in memory.per_cpu:
        there = memory.zone(found.node, found.zone)
        assert there is not None
        expected = per_cpu_pages(prog, Object(prog, "struct zone", address=there.address), found.cpu)
        assert expected.count.value_() == found.count
        assert len(expected.lists) == len(found.lists)
        total = 0
        for head, item in zip(expected.lists, found.lists):
            pfns = [int(page - base) for page in list_for_each_entry("struct page", head.address_of_(), "lru")]
            assert pfns == item.pfns.tolist()
            total += len(pfns) << (memory.layout.pageblock_order if item.order is None else item.order)
        assert total == found.count
        seen.add((found.cpu, found.node, found.zone))
    assert seen == {
        (cpu, there.node, there.index)
        for cpu in range(64)
        if prog["__cpu_possible_mask"].bits[0].value_() >> cpu & 1
        for there in memory.populated_zones
        if there.present
    }
    assert sum(len(item.pfns) for found in memory.per_cpu for item in found.lists) > 10


@pytest.fixture
def plant(edited: Edited, opened: Opened, scanned: Scanned) -> Any:
    """Give a copy of a stored vmcore to plant faults in."""
    return lambda name: Fault(name, edited(name), opened(name)[0].prog, scanned(name))


def a_list(fault: Fault) -> tuple[Object, list[int]]:
    """Get the per-CPU pages of CPU 0 and DMA32, and the pfns of its longest list."""
    there = per_cpu_ptr(fault.zone_member(0, 1, "per_cpu_pageset").read_(), 0)[0]
    lists = [list(list_for_each_entry("struct page", head.address_of_(), "lru")) for head in there.lists]
    longest = max(lists, key=len)
    return there, [int(page.value_() - fault.page(0)) // fault.size for page in longest]


def problems(new: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(f.detail["problem"], f.severity) for f in new if f.rule == RULE.id]


def test_planted_zone(plant: Any) -> None:
    fault = plant(AMD64_HEALTHY)
    _, pfns = a_list(fault)
    fault.link(pfns[3], pfns[3] + 1, 0, 0)
    new, gone = fault.changes()
    assert gone == set()
    assert problems(new) == [("zone", "error")]
    assert {f.rule for f in new} == {RULE.id, "mixed-zone", "zone-span"}
    assert [f.start_pfn for f in new if f.rule == RULE.id] == [pfns[3]]


@pytest.mark.parametrize(("lock", "severity"), [(b"\0", "error"), (b"\1", "note")])
def test_planted_count(plant: Any, lock: bytes, severity: str) -> None:
    fault = plant(AMD64_HEALTHY)
    there, _ = a_list(fault)
    fault.editor.write(there.lock.address_, lock)
    fault.editor.write(there.count.address_, struct.pack("<i", there.count.value_() + 1))
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.severity) for f in new] == [(RULE.id, severity)]


def test_planted_cycle_and_torn_list(plant: Any) -> None:
    fault = plant(AMD64_HEALTHY)
    _, pfns = a_list(fault)
    lru = fault.prog.type("struct page").member("lru").offset
    fault.editor.write_word(fault.page(pfns[5]) + lru, fault.page(pfns[2]) + lru)
    new, _ = fault.changes()
    assert problems(new) == [("cycle", "error")] or set(problems(new)) == {("cycle", "error"), ("prev", "error")}
    fault.editor.write_word(fault.page(pfns[5]) + lru, 0xDEAD000000000100)
    new, _ = fault.changes()
    assert problems(new) == [("link", "error")]
    assert new[0].detail["value"] == 0xDEAD000000000100


def test_planted_page_inside_a_free_block(plant: Any, cli: Cli) -> None:
    """The page before one on a list becomes free, with an order that reaches over it."""
    fault = plant(AMD64_HEALTHY)
    _, pfns = a_list(fault)
    pfn = next(pfn for pfn in pfns if pfn & 1)
    page = fault.prog.type("struct page")
    buddy = int(fault.prog["VMCOREINFO"].string_().split(b"PAGE_BUDDY_MAPCOUNT_VALUE)=")[1].split()[0])
    fault.editor.write(fault.page(pfn - 1) + page.member("_mapcount").offset, struct.pack("<i", buddy))
    fault.editor.write_word(fault.page(pfn - 1) + page.member("private").offset, 1)
    found = [f for f in fault.changes()[0] if f.rule == RULE.id and pfn in f.detail["pfns"]]
    assert [(f.detail["problem"], f.severity, f.start_pfn, f.detail["value"]) for f in found] == [
        ("buddy", "error", pfn, pfn - 1)
    ]
    assert f"in the free block [{pfn - 1:#x}, {pfn + 1:#x}) too" in found[0].message
    (shown,) = cli("-c", fault.editor.path, "page", "--format", "json", hex(pfn)).json()["pages"]
    assert RULE.id in {f["rule"] for f in shown["findings"]}


def test_planted_free_page_that_has_references(plant: Any) -> None:
    fault = plant(AMD64_HEALTHY)
    _, pfns = a_list(fault)
    offset = fault.prog.type("struct page").member("_refcount").offset
    fault.editor.write(fault.page(pfns[1]) + offset, b"\2\0\0\0")
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.severity, f.detail["value"]) for f in new] == [(RULE.id, "error", 2)]


def test_page_tells_its_list_and_what_it_breaks(plant: Any, cli: Cli, unpacked: Unpacked) -> None:
    fault = plant(AMD64_HEALTHY)
    there, pfns = a_list(fault)
    (page,) = cli("-c", unpacked(AMD64_HEALTHY), "page", "--format", "json", hex(pfns[3])).json()["pages"]
    assert (page["per_cpu"]["cpu"], page["per_cpu"]["zone"]) == (0, "node 0 zone DMA32")
    assert page["per_cpu"]["head_pfn"] == pfns[3]
    assert page["owner"] == "the page allocator: free, on a list of CPU 0"
    assert page["findings"] == page["zone_findings"] == []
    fault.editor.write(there.count.address_, struct.pack("<i", there.count.value_() + 1))
    area = fault.zone_member(0, 1, "free_area")[10]
    fault.editor.write_word(area.nr_free.address_, area.nr_free.value_() + 1)
    present = fault.zone_member(0, 1, "present_pages")
    fault.editor.write_word(present.address_, present.value_() + 0x1000000)
    done = cli("-c", fault.editor.path, "page", "--format", "json", hex(pfns[3]))
    (page,) = done.json()["pages"]
    assert page["findings"] == []
    assert {f["rule"] for f in page["zone_findings"]} == {RULE.id, "free-list", "zone-pages"}
    text = cli("-c", fault.editor.path, "page", hex(pfns[3])).out
    assert "\nRules that it breaks\nnone\n\nOf its zone as a whole\nseverity " in text
    assert f"per-CPU list        head {pfns[3]:#x}; on the list of CPU 0, node 0 zone DMA32, order 0" in text


def test_unreadable_lists_give_no_verdict(plant: Any) -> None:
    fault = plant(AMD64_HEALTHY)
    there, pfns = a_list(fault)
    fault.editor.write_word(fault.prog["__cpu_possible_mask"].address_, 0)
    assert problems(fault.changes()[0]) == []
    assert there.count.value_() > len(pfns) > 10
