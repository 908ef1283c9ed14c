# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule proc-disagrees on maps made by hand."""

from __future__ import annotations

import dataclasses

import pytest

from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.proc import ProcFiles, ZoneInfo
from mminspect.memorymap.sections import Section
from mminspect.rules.registry import select_rules
from mminspect.walk.live import check_proc
from tests.kit.handmade import memory_map, zone

SECTIONS = (Section(0, ((0, 64),), 0, 1), Section(2, ((128, 192),), 0, 1))
MEMORY = dataclasses.replace(memory_map(zone(1, 0, 192)), sections=SECTIONS)
DMA32 = ZoneInfo(0, "DMA32", 192, 192, 0)


def rows(files: ProcFiles, memory: MemoryMap = MEMORY) -> list[tuple[int, int, str]]:
    """Apply the rule; give range and message of its findings, which are errors about no zone."""
    found = list(check_proc(memory, files, select_rules(["proc-disagrees"])))
    assert all(
        (f.rule, f.severity, f.node, f.zone, f.detail) == ("proc-disagrees", "error", None, None, {}) for f in found
    )
    return [(f.start_pfn, f.end_pfn, f.message) for f in found]


def test_files_that_agree_or_cannot_be_read() -> None:
    assert rows(ProcFiles()) == []
    assert rows(ProcFiles(3, (DMA32,), ((0, 64), (130, 192)))) == []


def test_other_pageblock_order() -> None:
    assert rows(ProcFiles(pageblock_order=9)) == [
        (0, 0, "/proc/pagetypeinfo says that a pageblock has order 9, decoded: 3")
    ]


@pytest.mark.parametrize(
    "change", [{"spanned": 191}, {"present": 191}, {"start_pfn": 1}, {"spanned": 191, "start_pfn": None}]
)
def test_zone_with_other_numbers(change: dict[str, int]) -> None:
    (found,) = rows(ProcFiles(zones=(DMA32._replace(**change),)))
    assert found[:2] == (0, 192)


def test_zone_without_present_pages_is_printed_without_its_start() -> None:
    memory = memory_map(dataclasses.replace(zone(1, 64, 64), present=0))
    assert rows(ProcFiles(zones=(ZoneInfo(0, "DMA32", 64, 0, None),)), memory) == []
    assert rows(ProcFiles(zones=(ZoneInfo(0, "DMA32", 64, 0, 0),)), memory) == []


def test_zone_that_was_not_found() -> None:
    (found,) = rows(ProcFiles(zones=(ZoneInfo(1, "DMA32", 192, 192, 0),)))
    assert found == (0, 0, "/proc/zoneinfo has node 1 zone DMA32, which was not found")


def test_ram_that_is_in_no_online_section() -> None:
    assert [row[:2] for row in rows(ProcFiles(ram=((0, 100), (120, 200))))] == [(64, 100), (120, 128), (192, 200)]


def test_only_the_rule_that_is_asked_for_compares_them() -> None:
    assert list(check_proc(MEMORY, ProcFiles(9), select_rules(ignore=["proc-disagrees"]))) == []
