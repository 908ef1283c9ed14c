# SPDX-License-Identifier: LGPL-2.1-or-later
"""How per-CPU lists are followed: on struct pages made by hand, and in stored vmcores."""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from drgn import FaultError, Object
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu_ptr
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.layout.read import read_memory_map
from mminspect.memmap import percpu
from mminspect.memmap.percpu import Walker, with_per_cpu_pages
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.percpu import ListFault
from mminspect.memorymap.sections import Section
from tests.conftest import Kernels, Opened
from tests.kit.handmade import FLAT, PAGE, SPARSE, memory_map, page_flags, zone
from tests.kit.support import AMD64_NUMA, NAMES

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

    def follow(self, order: int = 0) -> tuple[list[int], list[ListFault], bool]:
        section = Section(0, ((0, PAGES),), VMEMMAP, 0x1000)
        memory = dataclasses.replace(memory_map(zone(1, 0, PAGES), layout=LAYOUT), sections=(section,))
        prog: Any = self
        return Walker(prog, memory).follow(memory.populated_zones[0], HEAD, order)


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


@pytest.mark.parametrize(("more", "order"), [(0, 9), (7, None)])
def test_count_tells_the_order_of_huge_pages_where_there_are_two(
    kernels: Kernels, more: int, order: int | None
) -> None:
    """With pageblocks of order 8, huge pages may have that order, or 9 as HPAGE_PMD_ORDER; this kernel has 9."""
    kernel = kernels(AMD64_NUMA)
    pages = next(p for p in kernel.memory_with_lists.per_cpu if (p.node, p.zone, p.cpu) == (0, 1, 0))
    assert {item.order for item in pages.lists if item.migratetype == "huge pages"} == {9}
    lists = [item._replace(order=None) if item.order == 9 else item for item in pages.lists]
    memory = dataclasses.replace(kernel.memory, layout=dataclasses.replace(kernel.memory.layout, pageblock_order=8))
    assert Walker(kernel.prog, memory)._huge_order(pages.count + more, lists) == order


def test_all_pages_of_a_block_are_looked_at() -> None:
    """Blocks of order 2 at 8 and 20: the last page of one has a reference, the second of the other another zone."""
    memory = Memory([8, 20])
    memory.put(11, 0x34, "<i", 1)
    memory.put(12, 0x34, "<i", 1)
    memory.put(21, 0, "<Q", 2 << 57)
    faults = [ListFault("references", 11, 1, True), ListFault("zone", 21, LAYOUT.link(0, 2), True)]
    assert memory.follow(order=2) == ([8, 20], faults, True)
    assert memory.follow() == ([8, 20], [], True)


def test_order_of_huge_pages_is_not_told_by_lists_that_were_left(kernels: Kernels) -> None:
    kernel = kernels(AMD64_NUMA)
    pages = next(p for p in kernel.memory_with_lists.per_cpu if (p.node, p.zone, p.cpu) == (0, 1, 0))
    lists = [item._replace(order=None) if item.order == 9 else item for item in pages.lists]
    memory = dataclasses.replace(kernel.memory, layout=dataclasses.replace(kernel.memory.layout, pageblock_order=8))
    walker = Walker(kernel.prog, memory)
    assert walker._huge_order(pages.count, lists) == 9
    for cut in range(len(lists)):
        some = [item._replace(complete=index != cut) for index, item in enumerate(lists)]
        assert walker._huge_order(pages.count, some) is None
