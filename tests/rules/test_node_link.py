# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule node-link on maps made by hand and in dumps with planted faults."""

from __future__ import annotations

import pytest

from mminspect.memorymap.zones import Node
from tests.conftest import Plant
from tests.kit.handmade import PGDAT, apply_to_map, memory_map, zone, zone_state
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, S390X


def test_links_of_zones_to_their_node() -> None:
    good = memory_map(zone(1, 0, 64, state=zone_state()))
    assert apply_to_map(good, "node-link") == []
    bad = memory_map(zone(1, 0, 64, state=zone_state(node=1, pgdat=PGDAT + 8)))
    assert [f.detail["member"] for f in apply_to_map(bad, "node-link")] == ["node", "zone_pgdat"]
    without_numa = memory_map(zone(1, 0, 64, state=zone_state(node=None)))
    assert apply_to_map(without_numa, "node-link") == []
    renamed = memory_map(zone(1, 0, 64), nodes=[Node(0, PGDAT, 0, 64, 64, node_id=3)])
    assert [f.detail for f in apply_to_map(renamed, "node-link")] == [{"member": "node_id", "value": 3, "expected": 0}]


# Dump, node and zone of a zone in it.
ZONES = [(AMD64_HEALTHY, 0, 1), (AMD64_NUMA, 1, 1), (ARM64, 0, 0), (S390X, 0, 0), (I386_HOLE, 0, 1)]


@pytest.mark.parametrize(("name", "node", "index"), ZONES)
def test_planted_pgdat(name: str, node: int, index: int, plant: Plant) -> None:
    fault = plant(name)
    fault.editor.write_word(fault.zone_member(node, index, "zone_pgdat").address_, 0x1000)
    (found,) = fault.new_findings()
    assert (found.rule, found.severity, found.detail["value"]) == ("node-link", "error", 0x1000)
