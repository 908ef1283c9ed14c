# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule compaction-cursor on maps made by hand and in dumps with planted faults."""

from __future__ import annotations

import dataclasses

import pytest

from tests.conftest import Plant
from tests.kit.handmade import apply_to_map, memory_map, zone, zone_state
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, S390X


@pytest.mark.parametrize(
    ("value", "severities"),
    [(0, []), (64, []), (127, []), (136, []), (56, []), (55, ["note"]), (137, ["note"]), (1 << 50, ["warning"])],
)
def test_cursors(value: int, severities: list[str]) -> None:
    made = zone(1, 64, 64, state=zone_state(cursors=(("compact_cached_free_pfn", value),)))
    memory = dataclasses.replace(memory_map(made), pfn_limit=1 << 40)
    assert [f.severity for f in apply_to_map(memory, "compaction-cursor")] == severities


# Dump, node and zone of a zone in it.
ZONES = [(AMD64_HEALTHY, 0, 1), (AMD64_NUMA, 1, 1), (ARM64, 0, 0), (S390X, 0, 0), (I386_HOLE, 0, 1)]


@pytest.mark.parametrize(("name", "node", "index"), ZONES)
def test_planted_cursor(name: str, node: int, index: int, plant: Plant) -> None:
    fault = plant(name)
    fault.editor.write_word(fault.zone_member(node, index, "compact_cached_free_pfn").address_, 0x7FFFFFF0)
    (found,) = fault.new_findings()
    # On 64 bits, it could be a pfn.
    assert (found.rule, found.severity) == ("compaction-cursor", "warning" if name == I386_HOLE else "note")
    assert (found.node, found.detail) == (node, {"member": "compact_cached_free_pfn", "value": 0x7FFFFFF0})
