# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule section on maps made by hand and in dumps with planted faults."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.layout import Field, PageFlagsLayout
from mminspect.memorymap.sections import Section, SectionEntry
from mminspect.rules import section as section_rule
from tests.conftest import Edited, Opened, Plant, Scanned
from tests.kit.handmade import SPARSE, apply_to_map, memory_map, zone
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA, S390X, scan_file, summary

FLAGS = ("SECTION_MARKED_PRESENT", "SECTION_HAS_MEM_MAP", "SECTION_IS_ONLINE", "SECTION_IS_EARLY")


@pytest.mark.parametrize(
    ("flags", "usage", "mem_map", "problems"),
    [
        (FLAGS, 1, 100, []),
        (FLAGS[:1], 0, 0, []),
        ((FLAGS[0], FLAGS[2]), 1, 100, ["no memmap"]),
        (FLAGS[1:], 1, 100, ["not present"]),
        (FLAGS[:2], 0, 100, ["no usage"]),
        (FLAGS, 0, 100, []),  # bitmap-bounds has it
        (FLAGS, 1, 200, ["memmap"]),
        (FLAGS[:3], 1, 100, ["no subsection"]),
        ((*FLAGS[:3], "SECTION_TAINT_ZONE_DEVICE"), 1, 100, []),
    ],
)
def test_section_flags(flags: tuple[str, ...], usage: int, mem_map: int, problems: list[str]) -> None:
    entries = [SectionEntry(nr, FLAGS, 100, 1) for nr in range(3)] + [SectionEntry(3, flags, mem_map, usage)]
    ranges: tuple[Any, ...] = () if "SECTION_IS_EARLY" not in flags else ((192, 256),)
    memory = dataclasses.replace(
        memory_map(zone(0, 0, 256)), mem_sections=tuple(entries), sections=(Section(3, ranges, 100, 1),)
    )
    found = apply_to_map(memory, "section")
    assert [f.detail["problem"] for f in found] == problems
    assert all((f.start_pfn, f.end_pfn) == (192, 256) for f in found)


def test_a_single_section_cannot_tell_where_vmemmap_is() -> None:
    memory = dataclasses.replace(memory_map(zone(0, 0, 64)), mem_sections=(SectionEntry(0, FLAGS, 100, 1),))
    assert apply_to_map(memory, "section") == []


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, S390X])
def test_planted_section_flags(name: str, plant: Plant) -> None:
    fault = plant(name)
    section = fault.prog["mem_section"][0][1]
    old = section.section_mem_map.value_()
    fault.editor.write_word(section.section_mem_map.address_, old & ~2)
    new, _ = fault.changes()
    assert {f.detail["problem"] for f in new if f.rule == "section"} == {"no memmap"}
    fault.editor.write_word(section.section_mem_map.address_, old & ~1)
    (found,) = fault.new_findings()
    assert (found.rule, found.detail["problem"]) == ("section", "not present")


def test_planted_section_link(edited: Edited, scanned: Scanned, opened: Opened) -> None:
    editor = edited("amd64-6.1-sparse")
    (prog, before) = (opened("amd64-6.1-sparse")[0].prog, scanned("amd64-6.1-sparse"))
    section = before.target["page_flags_layout"]["section"]
    mem_map = prog["mem_section"][0][1].section_mem_map.value_() & ~0x3F
    at = mem_map + 0x8010 * before.target["struct_page_size"]
    flags = int.from_bytes(editor.read(at, 8), "little")
    assert flags >> section["shift"] == 1
    editor.write_word(at, flags ^ 3 << section["shift"])
    rows = [f for f in scan_file(editor.path).findings if f.rule == "section"]
    assert summary(rows) == [("section", "error", 0x8010, 0x8011)]
    assert {key: rows[0].detail[key] for key in ("section", "problem", "linked")} == {
        "section": 1,
        "problem": "section link",
        "linked": 2,
    }


@pytest.mark.parametrize(("linked", "expected"), [(5, 0), (0, 8), (4, 8)])
def test_section_whose_pages_all_link_to_another(linked: int, expected: int) -> None:
    """Nothing in the chunk differs."""
    layout = dataclasses.replace(SPARSE, flags=PageFlagsLayout(Field(45, 19), Field(39, 6), Field(37, 2), 6, False))
    words = np.zeros((8, 8), np.uint64)
    words[:, 0] = linked << 45
    where = Section(5, ((5 * 64, 5 * 64 + 8),), 0, 0x1000)
    chunk = Chunk(5 * 64, words[:, 0], np.zeros(8, np.uint32), np.zeros(8, np.uint8), where, layout, words)
    found = list(section_rule.check(chunk, memory_map(zone(0, 0, 1024), layout=layout)))
    assert [match.key for match in found] == [(5, linked)] * expected
