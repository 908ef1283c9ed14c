# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule node-span on maps made by hand and in a dump with a planted fault."""

from __future__ import annotations

import pytest

from mminspect.memmap.chunk import DEFERRED, EXCLUDED, UNMAPPED
from mminspect.memorymap.zones import Node
from tests.conftest import Plant
from tests.kit.handmade import PGDAT, Part, chunk, memory_map, scan, zone
from tests.kit.support import AMD64_NUMA, summary


def test_pages_of_a_zone_outside_their_node() -> None:
    memory = memory_map(zone(1, 0, 64), nodes=[Node(0, PGDAT, 8, 40, 64)])
    found = scan(memory, chunk(memory, 0, Part(64, zone=1)), rule="node-span")
    assert summary(found) == [("node-span", "error", 0, 8), ("node-span", "error", 48, 64)]
    assert found[0].detail == {"linked": [0, 1], "node_span": [8, 48]}


@pytest.mark.parametrize("state", [DEFERRED, EXCLUDED, UNMAPPED])
def test_pages_whose_link_means_nothing_are_not_judged(state: int) -> None:
    memory = memory_map(zone(1, 0, 64), nodes=[Node(0, PGDAT, 8, 40, 64)])
    found = scan(memory, chunk(memory, 0, Part(4, zone=1), Part(60, zone=1, state=state)), rule="node-span")
    assert summary(found) == [("node-span", "error", 0, 4)]


def test_pages_outside_their_zone_are_not_the_business_of_node_span() -> None:
    memory = memory_map(zone(1, 8, 40))
    assert scan(memory, chunk(memory, 0, Part(64, zone=1)), rule="node-span") == []


def test_planted_node_span(plant: Plant) -> None:
    fault = plant(AMD64_NUMA)
    member = fault.prog["node_data"][1].node_spanned_pages
    end = fault.prog["node_data"][1].node_start_pfn.value_() + member.value_()
    fault.editor.write_word(member.address_, member.value_() - 0x200)
    (found,) = fault.new_findings()
    assert (found.rule, found.start_pfn, found.end_pfn) == ("node-span", end - 0x200, end)
