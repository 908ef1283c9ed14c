# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule zone-pages on maps made by hand and in dumps with planted faults."""

from __future__ import annotations

import dataclasses

import pytest

from mminspect.memorymap.zones import FreeArea, Node
from tests.conftest import Plant
from tests.kit.handmade import PGDAT, Part, apply_to_map, chunk, memory_map, scan, zone, zone_state
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, S390X


def test_numbers_that_contradict_each_other() -> None:
    made = dataclasses.replace(zone(1, 0, 64), present=65, managed=66)
    memory = memory_map(made, nodes=[Node(0, PGDAT, 0, 64, 64)])
    assert [f.detail["problem"] for f in apply_to_map(memory, "zone-pages")] == ["managed", "present", "node present"]


@pytest.mark.parametrize(("managed", "severity"), [(50, None), (51, "warning"), (64, "warning"), (65, "error")])
def test_managed_pages_are_present(managed: int, severity: str | None) -> None:
    memory = memory_map(dataclasses.replace(zone(1, 0, 64), present=50, managed=managed))
    found = [f for f in apply_to_map(memory, "zone-pages") if f.detail["problem"] == "managed"]
    assert [f.severity for f in found] == ([severity] if severity else [])


@pytest.mark.parametrize(("free", "severity"), [(58, None), (59, "warning")])
def test_free_pages_are_managed(free: int, severity: str | None) -> None:
    # Pageblocks have 8 pages.
    areas = (FreeArea(free - 2 * 20, (), (), ()), FreeArea(20, (), (), ()))
    memory = memory_map(dataclasses.replace(zone(1, 0, 64), managed=50, state=zone_state(free_areas=areas)))
    found = apply_to_map(memory, "zone-pages")
    assert [(f.severity, f.detail) for f in found] == (
        [(severity, {"problem": "free", "value": free, "limit": 50})] if severity else []
    )


def test_present_pages_that_nobody_has() -> None:
    memory = memory_map(zone(1, 0, 64))
    assert scan(memory, chunk(memory, 0, Part(64, zone=1)), rule="zone-pages") == []
    # Where a page links to doesn't matter, unless it is another zone's page.
    assert scan(memory, chunk(memory, 0, Part(32, zone=1), Part(32, zone=4)), rule="zone-pages") == []
    (found,) = scan(memory, chunk(memory, 0, Part(60, zone=1)), rule="zone-pages")
    assert (found.severity, found.detail) == ("warning", {"problem": "counted", "value": 64, "limit": 60})


def test_pages_of_a_zone_that_overlaps_are_not_counted() -> None:
    memory = memory_map(zone(1, 0, 64), zone(1, 32, 32, node=1))
    (found,) = scan(memory, chunk(memory, 0, Part(32, zone=1), Part(32, node=1, zone=1)), rule="zone-pages")
    assert (found.node, found.detail["limit"]) == (0, 32)


# Dump, node and zone of a zone in it.
ZONES = [(AMD64_HEALTHY, 0, 1), (AMD64_NUMA, 1, 1), (ARM64, 0, 0), (S390X, 0, 0), (I386_HOLE, 0, 1)]


@pytest.mark.parametrize(("name", "node", "index"), ZONES)
def test_planted_present_pages(name: str, node: int, index: int, plant: Plant) -> None:
    fault = plant(name)
    member = fault.zone_member(node, index, "present_pages")
    fault.editor.write_word(member.address_, member.value_() + 0x1000000)
    found = fault.new_findings()
    assert {f.rule for f in found} == {"zone-pages"}
    assert {f.detail["problem"] for f in found} == {"present", "node present", "counted"}
