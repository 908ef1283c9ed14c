# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule zone-overlap on maps made by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

from mminspect.memorymap.sections import SectionEntry
from tests.kit.handmade import apply_to_map, memory_map, zone

FLAGS = ("SECTION_MARKED_PRESENT", "SECTION_HAS_MEM_MAP", "SECTION_IS_ONLINE", "SECTION_IS_EARLY")


def overlap(*zones: Any, plugged: bool = False) -> list[str]:
    entries = [SectionEntry(0, FLAGS, 100, 1)] + [SectionEntry(1, FLAGS[:3], 100, 1)] * plugged
    return [
        f.severity for f in apply_to_map(dataclasses.replace(memory_map(*zones), mem_sections=entries), "zone-overlap")
    ]


def test_kernels_without_the_flag_of_early_sections_tell_of_no_plugged_memory() -> None:
    memory = dataclasses.replace(
        memory_map(zone(1, 0, 72), zone(2, 64, 64)), mem_sections=(SectionEntry(0, FLAGS[:3], 100, 1),)
    )
    assert [f.severity for f in apply_to_map(memory, "zone-overlap")] == ["warning"]


def test_zones_that_overlap() -> None:
    assert overlap(zone(1, 0, 64), zone(2, 64, 64)) == []
    assert overlap(zone(1, 0, 72), zone(2, 64, 64)) == ["warning"]
    assert overlap(zone(1, 0, 72), zone(2, 64, 64), plugged=True) == ["note"]
    assert overlap(zone(2, 0, 72), zone(3, 64, 64)) == ["note"]
    assert overlap(zone(1, 0, 72), zone(1, 64, 64, node=1)) == ["note"]
    assert overlap(zone(1, 0, 128), zone(1, 16, 8, node=1), zone(1, 32, 8, node=2)) == ["note", "note"]
