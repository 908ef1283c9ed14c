# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule migratetype on maps made by hand and in dumps with planted faults."""

from __future__ import annotations

import dataclasses

import pytest

from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from tests.conftest import Plant
from tests.kit.handmade import FLAT, SPARSE, apply_to_map, memory_map, zone
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, AMD64_NUMA, I386_HOLE, S390X

KINDS = ("UNMOVABLE", "MOVABLE", "RECLAIMABLE", "HIGHATOMIC", "CMA", "ISOLATE")


def bitmap_of(layout: Layout, values: list[int]) -> bytes:
    """Encode pageblock bits independently of :mod:`mminspect.memorymap.bitmap`: as a string of binary digits."""
    width, count = layout.bits_per_pageblock, layout.word_bits // layout.bits_per_pageblock
    data = b""
    for first in range(0, len(values), count):
        fields = [f"{v:0{width}b}" for v in values[first : first + count]]
        fields += ["0" * width] * (count - len(fields))
        if layout.bits_from_top:
            # The migratetype is above skip in the field, and block 0 at the top.
            fields = [f[1:] + f[0] for f in fields]
        else:
            fields.reverse()
        data += int("".join(fields), 2).to_bytes(layout.word_bits // 8, layout.byteorder)  # type: ignore[arg-type]
    return data


def with_bitmap(layout: Layout, values: list[int]) -> MemoryMap:
    """Make a zone of eight pageblocks with these bits."""
    data = bitmap_of(layout, values)
    if layout.flatmem:
        made = zone(0, 0, 64, bitmap=0x1000, pageblock_flags=data)
        return dataclasses.replace(memory_map(made, layout=layout), sections=(Section(0, ((0, 64),), 0, 0),))
    section = Section(0, ((0, 64),), 0, 0x1000, pageblock_flags=data)
    return dataclasses.replace(memory_map(zone(0, 0, 64), layout=layout), sections=(section,))


LAYOUTS = {
    "sparse": dataclasses.replace(SPARSE, migratetypes=KINDS),
    "before 5.9": dataclasses.replace(SPARSE, migratetypes=KINDS, bits_from_top=True),
    "isolate bit": dataclasses.replace(SPARSE, migratetypes=KINDS, bits_per_pageblock=8, isolate_bit=True),
    "flat": dataclasses.replace(FLAT, migratetypes=KINDS),
    "big-endian": dataclasses.replace(SPARSE, migratetypes=KINDS, byteorder="big"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_migratetypes_that_exist_are_fine(name: str) -> None:
    memory = with_bitmap(LAYOUTS[name], [0, 1, 2, 3, 4, 8, 9, 12])
    assert apply_to_map(memory, "migratetype") == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_migratetype_out_of_range(name: str) -> None:
    found = apply_to_map(with_bitmap(LAYOUTS[name], [1, 6, 6, 1, 15, 1, 1, 1]), "migratetype")
    assert [(f.severity, f.start_pfn, f.end_pfn, f.detail["migratetype"]) for f in found] == [
        ("error", 8, 24, 6),
        ("error", 32, 40, 7),
    ]
    assert found[0].detail["migrate_types"] == 6


@pytest.mark.parametrize("bad", range(7))
def test_each_section_is_looked_at_where_they_come_in_batches(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mminspect.rules.migratetype.SECTIONS_AT_ONCE", 3)
    layout = LAYOUTS["sparse"]
    made = [
        Section(
            nr, ((nr * 64, nr * 64 + 64),), 0, 0x1000, pageblock_flags=bitmap_of(layout, [1, 7 * (nr == bad), 1, 1])
        )
        for nr in range(7)
    ]
    memory = dataclasses.replace(memory_map(zone(0, 0, 7 * 64), layout=layout), sections=tuple(made))
    assert [(f.start_pfn, f.end_pfn) for f in apply_to_map(memory, "migratetype")] == [(bad * 64 + 8, bad * 64 + 16)]


def test_isolate_is_stored_only_where_it_is_no_bit() -> None:
    values = [1, 5, 1, 1, 1, 1, 1, 1]
    assert apply_to_map(with_bitmap(LAYOUTS["sparse"], values), "migratetype") == []
    (found,) = apply_to_map(with_bitmap(LAYOUTS["isolate bit"], values), "migratetype")
    assert (found.severity, found.start_pfn) == ("error", 8)
    assert apply_to_map(with_bitmap(LAYOUTS["isolate bit"], [0x11, 0x19, 1, 1, 1, 1, 1, 1]), "migratetype") == []


def test_bits_without_a_meaning_are_a_warning() -> None:
    (found,) = apply_to_map(with_bitmap(LAYOUTS["isolate bit"], [1, 1, 0x21, 1, 1, 1, 1, 1]), "migratetype")
    assert (found.severity, found.start_pfn, found.detail["value"]) == ("warning", 16, 0x21)


def test_pageblocks_outside_every_zone_or_offline_are_not_judged() -> None:
    memory = with_bitmap(LAYOUTS["sparse"], [7] * 8)
    inside = memory.sections[0]._replace(ranges=((0, 16), (40, 64)))
    memory = dataclasses.replace(memory_map(zone(0, 12, 36), layout=LAYOUTS["sparse"]), sections=(inside,))
    assert [(f.start_pfn, f.end_pfn) for f in apply_to_map(memory, "migratetype")] == [(8, 16), (40, 48)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_bits_are_those_of_each_block(name: str) -> None:
    layout = LAYOUTS[name]
    data = bytes(range(1, 17))
    size = layout.word_bits // 8
    words = [int.from_bytes(data[i : i + size], layout.byteorder) for i in range(0, 16, size)]  # type: ignore[arg-type]
    indexes = range(0, 128, layout.bits_per_pageblock)
    expected = [bitmap.pageblock_bits(layout, words[i // layout.word_bits], i) for i in indexes]
    assert bitmap.all_pageblock_bits(layout, data).tolist() == expected


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, AMD64_400M, S390X])
def test_planted_migratetype(name: str, plant: Plant) -> None:
    fault = plant(name)
    bits = fault.before.target["bits_per_pageblock"]
    order = fault.before.target["pageblock_order"]
    pages = (fault.machine.word_bits // bits) << order
    prog = fault.prog
    nr = 0x8000 >> (prog["SECTION_SIZE_BITS"].value_() - prog["PAGE_SHIFT"].value_())
    usage = prog["mem_section"][nr // prog["SECTIONS_PER_ROOT"].value_()][nr % prog["SECTIONS_PER_ROOT"].value_()].usage
    start = nr << (prog["SECTION_SIZE_BITS"].value_() - prog["PAGE_SHIFT"].value_())
    at = usage.pageblock_flags.address_ + fault.machine.word_bits // 8
    fault.editor.write_word(at, (1 << fault.machine.word_bits) - 1)
    # Free pages there are now on the wrong list.
    (found,) = (f for f in fault.new_findings() if f.rule != "free-list")
    assert (found.rule, found.severity, found.detail["migratetype"]) == ("migratetype", "error", 7)
    assert (found.start_pfn, found.end_pfn) == (start + pages, start + 2 * pages)


def test_planted_migratetype_with_flatmem(plant: Plant) -> None:
    fault = plant(I386_HOLE)
    fault.editor.write_word(fault.zone_member(0, 1, "pageblock_flags").value_(), 0xFFFFFFFF)
    (found,) = fault.new_findings()
    assert (found.rule, found.start_pfn, found.end_pfn) == ("migratetype", 0x1000, 0x1000 + 8 * 512)


def test_three_runs_of_different_bits() -> None:
    """A block continues the run before it, not the first one."""
    found = apply_to_map(with_bitmap(LAYOUTS["sparse"], [7, 6, 6, 1, 7, 7, 1, 1]), "migratetype")
    assert [(f.start_pfn, f.end_pfn, f.detail["migratetype"]) for f in found] == [(0, 8, 7), (8, 24, 6), (32, 48, 7)]
