# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule per-cpu-list: on lists made by hand, and in dumps with planted faults."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu_ptr

from mminspect.findings import Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.percpu import ListFault, PerCpuList, PerCpuPages
from mminspect.rules.registry import all_rules
from mminspect.walk.engine import check_map
from tests.conftest import Cli, Plant, Unpacked
from tests.kit.handmade import memory_map, zone
from tests.kit.planted import Fault
from tests.kit.structpages import LAYOUT
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA

RULE = all_rules()["per-cpu-list"]


def listed(order: int | None, *pfns: int, **more: Any) -> PerCpuList:
    made: dict[str, Any] = {"faults": (), "complete": True, **more}
    return PerCpuList(order, "MOVABLE", np.array(pfns, np.uint64), **made)


def judge(*pages: PerCpuPages) -> list[Finding]:
    memory: MemoryMap = memory_map(zone(1, 0, 1024), zone(2, 1024, 1024), layout=LAYOUT)
    return check_map(dataclasses.replace(memory, per_cpu=pages), [RULE])


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
        assert (found.start_pfn, found.end_pfn) == ((4, 6) if pfn is not None else (0, 1024))
        assert found.detail["pfns"] == ([5] if pfn is not None else [])


def test_page_on_two_lists() -> None:
    one, other = listed(0, 1, 9), listed(3, 8)
    (found,) = judge(pages(2, one), pages(8, other, cpu=1, index=2, locked=None))
    assert (found.severity, found.start_pfn, found.end_pfn) == ("error", 9, 10)
    assert found.message.endswith("pfn 0x9 is on the list of CPU 1, order 3 MOVABLE too")
    assert (found.detail["problem"], found.detail["cpu"], found.detail["value"]) == ("twice", 0, 8)


def a_list(fault: Fault) -> tuple[Object, list[int]]:
    """Get the per-CPU pages of CPU 0 and DMA32, and the pfns of its longest list."""
    there = per_cpu_ptr(fault.zone_member(0, 1, "per_cpu_pageset").read_(), 0)[0]
    lists = [list(list_for_each_entry("struct page", head.address_of_(), "lru")) for head in there.lists]
    longest = max(lists, key=len)
    return there, [int(page.value_() - fault.page(0)) // fault.size for page in longest]


def problems(new: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(f.detail["problem"], f.severity) for f in new if f.rule == RULE.id]


def test_planted_zone(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    _, pfns = a_list(fault)
    fault.link(pfns[3], pfns[3] + 1, 0, 0)
    new, gone = fault.changes()
    assert gone == set()
    assert problems(new) == [("zone", "error")]
    assert {f.rule for f in new} == {RULE.id, "mixed-zone", "zone-span"}
    assert [f.start_pfn for f in new if f.rule == RULE.id] == [pfns[3]]


@pytest.mark.parametrize(("lock", "severity"), [(b"\0", "error"), (b"\1", "note")])
def test_planted_count(plant: Plant, lock: bytes, severity: str) -> None:
    fault = plant(AMD64_HEALTHY)
    there, _ = a_list(fault)
    fault.editor.write(there.lock.address_, lock)
    fault.editor.write(there.count.address_, struct.pack("<i", there.count.value_() + 1))
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.severity) for f in new] == [(RULE.id, severity)]


def test_planted_cycle_and_torn_list(plant: Plant) -> None:
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


def test_planted_page_inside_a_free_block(plant: Plant, cli: Cli) -> None:
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


def test_planted_free_page_that_has_references(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    _, pfns = a_list(fault)
    offset = fault.prog.type("struct page").member("_refcount").offset
    fault.editor.write(fault.page(pfns[1]) + offset, b"\2\0\0\0")
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.severity, f.detail["value"]) for f in new] == [(RULE.id, "error", 2)]


def test_page_tells_its_list_and_what_it_breaks(
    plant: Plant, cli: Cli, unpacked: Unpacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
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


def test_unreadable_lists_give_no_verdict(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    there, pfns = a_list(fault)
    fault.editor.write_word(fault.prog["__cpu_possible_mask"].address_, 0)
    assert problems(fault.changes()[0]) == []
    assert there.count.value_() > len(pfns) > 10


def test_all_pages_of_a_huge_block_are_looked_at(plant: Plant) -> None:
    """In this dump a block of order 9, pfns 0x5600 to 0x5800, is on a list of huge pages of CPU 0."""
    fault = plant(AMD64_NUMA)
    struct_page = fault.prog.type("struct page")
    fault.editor.write(fault.page(0x5678) + struct_page.member("_refcount").offset, struct.pack("<i", 1))
    fault.link(0x57FF, 0x5800, 0, 0)
    new, _ = fault.changes()
    found = {f.detail["problem"]: f for f in new if f.rule == RULE.id}
    assert {(problem, f.severity) for problem, f in found.items()} == {("references", "error"), ("zone", "error")}
    assert found["references"].detail["pfns"] == [0x5678]
    assert found["zone"].detail["pfns"] == [0x57FF]
    assert {(f.start_pfn, f.end_pfn, f.detail["order"]) for f in found.values()} == {(0x5600, 0x5800, 9)}


def test_free_block_inside_of_a_huge_block(plant: Plant) -> None:
    fault = plant(AMD64_NUMA)
    page = fault.page(0x5700)
    fault.editor.write(page + fault.prog.type("struct page").member("_mapcount").offset, struct.pack("<I", 0xF0000000))
    new, _ = fault.changes()
    (found,) = (f for f in new if f.rule == RULE.id)
    assert (found.severity, found.detail["problem"], found.detail["pfns"]) == ("error", "buddy", [0x5600])
    assert "pfn 0x5700 is in the free block [0x5700, 0x5701) too" in found.message


def test_count_of_huge_pages_is_exact_where_their_order_is_known() -> None:
    assert judge(pages(2 + 2 * 256, listed(0, 1, 2), listed(8, 256, 512))) == []
    # 2 + 2 * 128 would pass where any power of two will do.
    (found,) = judge(pages(2 + 2 * 128, listed(0, 1, 2), listed(8, 256, 512)))
    assert (found.detail["count"], found.detail["counted"]) == (258, 514)


def test_planted_count_of_huge_pages(plant: Plant) -> None:
    """A list of one block of 512 pages, and a count as if it had 256."""
    fault = plant(AMD64_NUMA)
    there = per_cpu_ptr(fault.zone_member(0, 1, "per_cpu_pageset").read_(), 0)[0]
    fault.editor.write(there.count.address_, struct.pack("<i", there.count.value_() - 256))
    new, _ = fault.changes()
    assert [f.detail["problem"] for f in new if f.rule == RULE.id] == ["count"]
