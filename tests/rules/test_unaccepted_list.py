# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rule unaccepted-list, on stored vmcores in which free blocks were made unaccepted memory as the kernel does.

No guest here has such memory. ``__free_unaccepted()`` of 6.12 and 7.3, with ``zone->lock`` held: ``list_add_tail()``,
``account_freepages(MAX_ORDER_NR_PAGES)``, ``__mod_zone_page_state(NR_UNACCEPTED, MAX_ORDER_NR_PAGES)``,
``__SetPageUnaccepted()``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from drgn import Program
from drgn.helpers.linux.list import list_for_each_entry

from mminspect.findings import Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.percpu import ListFault
from mminspect.memorymap.unaccepted import UnacceptedList
from mminspect.rules.registry import all_rules
from mminspect.walk.engine import Scan
from mminspect.walk.scan import scan
from tests.conftest import Edited, Kernels, Scanned
from tests.kit.handmade import memory_map, nothing_known, zone
from tests.kit.structpages import LAYOUT
from tests.kit.support import AMD64_400M, AMD64_NUMA, CoreEditor, open_core

RULE = all_rules()["unaccepted-list"]
ORDER = 10
BLOCK = 1 << ORDER
# PGTY_unaccepted and PGTY_buddy of include/linux/page-flags.h, and the type of a page without one.
UNACCEPTED, BUDDY, NONE = 0xF7000000, 0xF0000000, 0xFFFFFFFF


class Guest:
    """A copy of a stored vmcore whose zone DMA32 of node 0 gets unaccepted memory."""

    def __init__(self, editor: CoreEditor, prog: Program) -> None:
        self.editor = editor
        self.prog = prog
        self.zone = prog["node_data"][0].node_zones[1]
        assert self.zone.address_ is not None
        self.head = int(self.zone.unaccepted_pages.address_ or 0)
        self.stat = int(self.zone.vm_stat.address_ or 0) + 8 * prog.constant("NR_UNACCEPTED").value_()

    def page(self, pfn: int, member: str) -> int:
        offset: int = self.prog.type("struct page").member(member).offset
        return int(self.prog["vmemmap"].value_()) + pfn * 64 + offset

    def word(self, address: int) -> int:
        return int.from_bytes(self.editor.read(address, 8), "little")

    def free_blocks(self) -> list[int]:
        """Get the free blocks of the largest order on MOVABLE's list."""
        head = self.zone.free_area[ORDER].free_list[1]
        base = self.prog["vmemmap"].value_()
        return [
            int(page.value_() - base) // 64 for page in list_for_each_entry("struct page", head.address_of_(), "lru")
        ]

    def unlink(self, pfn: int) -> None:
        """Take a block off its free list: ``__del_page_from_free_list()``."""
        following, before = self.word(self.page(pfn, "lru")), self.word(self.page(pfn, "lru") + 8)
        self.editor.write_word(before, following)
        self.editor.write_word(following + 8, before)
        area = self.zone.free_area[ORDER].nr_free.address_
        self.editor.write_word(area, self.word(area) - 1)
        self.set_type(pfn, NONE)
        self.editor.write_word(self.page(pfn, "private"), 0)

    def set_type(self, pfn: int, value: int) -> None:
        self.editor.write(self.page(pfn, "_mapcount"), value.to_bytes(4, "little"))

    def add(self, pfn: int) -> None:
        """``__free_unaccepted()``."""
        lru, last = self.page(pfn, "lru"), self.word(self.head + 8)
        self.editor.write_word(lru, self.head)
        self.editor.write_word(lru + 8, last)
        self.editor.write_word(last, lru)
        self.editor.write_word(self.head + 8, lru)
        self.editor.write_word(self.stat, self.word(self.stat) + BLOCK)
        self.set_type(pfn, UNACCEPTED)

    def problems(self) -> dict[str, Finding]:
        found = scan(open_core(self.editor.path), [RULE]).findings
        by_problem = {finding.detail["problem"]: finding for finding in found}
        assert len(by_problem) == len(found)
        return by_problem


@pytest.fixture(params=[AMD64_400M, AMD64_NUMA])
def guest(request: pytest.FixtureRequest, edited: Edited, kernels: Kernels) -> Guest:
    """Give a guest with three unaccepted blocks, of which everything is right."""
    made = Guest(edited(request.param), kernels(request.param).prog)
    for pfn in made.free_blocks()[:3]:
        made.unlink(pfn)
        made.add(pfn)
    return made


def listed(guest: Guest) -> list[int]:
    (found,) = open_core(guest.editor.path).memory_with_lists.unaccepted
    pfns: list[int] = found.pfns.tolist()
    return pfns


def test_lists_in_order(guest: Guest, scanned: Scanned) -> None:
    before = guest.free_blocks()[:3]
    kernel = open_core(guest.editor.path)
    (found,) = kernel.memory_with_lists.unaccepted
    assert (found.node, found.zone, found.pfns.tolist(), found.faults) == (0, 1, before, ())
    assert (found.complete, found.stated, found.locked) == (True, 3 * BLOCK, False)
    # No rule is broken by it: such memory is in no free list, and nr_free doesn't count it.
    name = guest.editor.path.name.removesuffix(".copy")
    assert [f.id for f in scan(kernel).findings] == [f.id for f in scanned(name).findings]


def test_kernels_whose_lists_are_empty(kernels: Kernels) -> None:
    for name in (AMD64_400M, AMD64_NUMA):
        assert kernels(name).memory_with_lists.unaccepted == ()
        assert RULE.id in scan(kernels(name)).summary["by_rule"]


@pytest.mark.parametrize("value", [0, 0xDEAD000000000100])
def test_planted_link(guest: Guest, value: int) -> None:
    pfns = listed(guest)
    guest.editor.write_word(guest.page(pfns[1], "lru"), value)
    found = guest.problems()
    assert {problem: (f.severity, f.detail["pfns"], f.detail["value"]) for problem, f in found.items()} == {
        "link": ("error", [pfns[1]], value),
    }
    assert (found["link"].start_pfn, found["link"].zone) == (pfns[1], "DMA32")
    assert f"pfn {pfns[1]:#x} is followed by {value:#x}" in found["link"].message


def test_planted_prev_and_cycle(guest: Guest) -> None:
    pfns = listed(guest)
    guest.editor.write_word(guest.page(pfns[2], "lru") + 8, guest.head)
    assert {problem: f.detail["pfns"] for problem, f in guest.problems().items()} == {"prev": [pfns[2]]}
    guest.editor.write_word(guest.page(pfns[2], "lru") + 8, guest.page(pfns[1], "lru"))
    guest.editor.write_word(guest.head + 8, guest.page(pfns[1], "lru"))
    assert {problem: f.detail["pfns"] for problem, f in guest.problems().items()} == {"prev": []}
    guest.editor.write_word(guest.head + 8, guest.page(pfns[2], "lru"))
    guest.editor.write_word(guest.page(pfns[2], "lru"), guest.page(pfns[0], "lru"))
    found = guest.problems()
    assert {problem: (f.detail["pfns"], f.detail["value"]) for problem, f in found.items()} == {
        "cycle": ([pfns[2]], pfns[0]),
    }


def test_planted_count(guest: Guest) -> None:
    guest.editor.write_word(guest.stat, 5 * BLOCK)
    found = guest.problems()["count"]
    assert (found.severity, found.detail["count"], found.detail["counted"]) == ("error", 5 * BLOCK, 3 * BLOCK)
    assert (found.start_pfn, found.zone) == (0x1000, "DMA32")
    guest.editor.write_word(guest.stat, (1 << 64) - 1)
    assert guest.problems()["count"].detail["count"] == -1


def test_count_without_a_list(edited: Edited, kernels: Kernels) -> None:
    guest = Guest(edited(AMD64_400M), kernels(AMD64_400M).prog)
    guest.editor.write_word(guest.stat, BLOCK)
    found = guest.problems()["count"]
    assert (found.detail["count"], found.detail["counted"]) == (BLOCK, 0)


def test_block_that_is_free_too(guest: Guest) -> None:
    """It is on the list, and the allocator has its first page, or pages in it; those before and behind may be free."""
    pfns = sorted(listed(guest))
    guest.set_type(pfns[1], BUDDY)
    assert {problem: f.detail["pfns"] for problem, f in guest.problems().items()} == {"free": [pfns[1]]}
    guest.set_type(pfns[1], UNACCEPTED)
    for pfn, expected in (
        (pfns[0] - 1, []),
        (pfns[0] + 1, [pfns[0]]),
        (pfns[1] + BLOCK - 1, [pfns[1]]),
        (pfns[2] + BLOCK, []),
    ):
        before = guest.editor.read(guest.page(pfn, "_mapcount"), 4)
        guest.set_type(pfn, BUDDY)
        found = guest.problems()
        assert [f.detail["pfns"] for f in found.values()] == ([expected] if expected else [])
        assert set(found) <= {"free"}
        guest.editor.write(guest.page(pfn, "_mapcount"), before)


def test_pages_that_can_not_be_on_the_list(guest: Guest) -> None:
    pfns = listed(guest)
    guest.editor.write(guest.page(pfns[0], "_refcount"), (2).to_bytes(4, "little"))
    guest.set_type(pfns[1], NONE)
    flags = guest.page(pfns[2], "flags")
    guest.editor.write_word(flags, guest.word(flags) & ~(7 << 51))
    found = guest.problems()
    assert {problem: (f.detail["pfns"], f.detail["value"]) for problem, f in found.items()} == {
        "references": ([pfns[0]], 2),
        "type": ([pfns[1]], NONE),
        "zone": ([pfns[2]], 0),
    }
    assert "links to node 0 zone DMA" in found["zone"].message


def test_page_that_is_not_the_first_of_its_block(guest: Guest) -> None:
    pfn = listed(guest)[0] + 512
    guest.add(pfn)
    found = guest.problems()
    assert {problem: (f.detail["pfns"], f.detail["value"]) for problem, f in found.items()} == {"order": ([pfn], ORDER)}


def test_page_that_nobody_has_on_a_list(guest: Guest, edited: Edited) -> None:
    pfn = guest.free_blocks()[3]
    guest.unlink(pfn)
    guest.set_type(pfn, UNACCEPTED)
    found = guest.problems()
    assert {problem: (f.detail["pfns"], f.detail["pages"]) for problem, f in found.items()} == {"lost": ([pfn], 1)}
    assert f"the first is {pfn:#x}" in found["lost"].message
    guest.editor.write(int(guest.zone.lock.address_ or 0), b"\1")
    assert guest.problems() == {}


def test_lock_that_is_held(guest: Guest) -> None:
    pfns = listed(guest)
    guest.editor.write_word(guest.page(pfns[1], "lru") + 8, 8)
    guest.editor.write_word(guest.stat, 0)
    guest.editor.write(int(guest.zone.lock.address_ or 0), b"\1")
    (found,) = guest.problems().values()
    assert (found.severity, found.detail["problem"], found.detail["locked"]) == ("note", "prev", True)
    assert found.message.endswith("zone->lock is held, so the list may be half changed")


def test_unreadable_pages_end_a_list_without_a_word(guest: Guest) -> None:
    pfns = listed(guest)
    start = guest.page(pfns[1], "flags")
    guest.editor.exclude(start, start + 64)
    assert guest.problems() == {}
    (found,) = open_core(guest.editor.path).memory_with_lists.unaccepted
    assert (found.complete, found.pfns.tolist()) == (False, pfns[:1])


def test_bound(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mminspect.memmap.unaccepted.MAX_FOLLOWED", 2)
    assert guest.problems() == {}
    assert len(listed(guest)) == 2


# By hand: kernels before 6.12, whose such pages have no type


def judge(*items: UnacceptedList) -> list[Finding]:
    memory: MemoryMap = memory_map(zone(1, 0, 64), layout=LAYOUT)
    walk: Any = None
    return Scan(dataclasses.replace(memory, unaccepted=items), walk, [RULE], nothing_known).findings_in([])


def made(*pfns: int, **more: Any) -> UnacceptedList:
    values: dict[str, Any] = {"faults": (), "complete": True, "stated": len(pfns) << LAYOUT.max_order, "locked": False}
    return UnacceptedList(0, 1, np.array(pfns, np.uint64), **{**values, **more})


def test_lists_by_hand() -> None:
    assert judge() == judge(made(0, 16)) == judge(made(0, 16, stated=None)) == []
    assert judge(made(0, 16, stated=1, complete=False)) == judge(made(0, 16, stated=1, locked=True)) == []
    (found,) = judge(made(0, stated=32))
    assert found.message == "node 0 zone DMA32, unaccepted memory: NR_UNACCEPTED is 32, but 16 pages are on the list"
    (found,) = judge(made(0, faults=(ListFault("link", None, 5),), complete=False))
    assert "its head is followed by 0x5, which is no struct page's lru" in found.message
    assert (found.start_pfn, found.end_pfn, found.detail["pages"]) == (0, 64, 0)
