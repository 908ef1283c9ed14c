# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules that need no struct page, or only count them: on maps made by hand and in dumps with planted faults."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mminspect.findings import Finding
from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section, SectionEntry
from mminspect.memorymap.zones import FreeArea, Node, ZoneState
from mminspect.rules.registry import select_rules
from mminspect.walk import engine as analyzer
from tests.conftest import Edited, Opened, Scanned
from tests.handmade import FLAT, PGDAT, SPARSE, Part, chunk, memory_map, scan, zone
from tests.support import AMD64_400M, AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, NAMES, S390X, scan_file, summary
from tests.test_planted_faults import Fault

NEW = (
    "compaction-cursor",
    "deferred-init",
    "migratetype",
    "node-link",
    "node-span",
    "section",
    "zone-overlap",
    "zone-pages",
)
KINDS = ("UNMOVABLE", "MOVABLE", "RECLAIMABLE", "HIGHATOMIC", "CMA", "ISOLATE")


def judge(memory: MemoryMap, rule: str) -> list[Finding]:
    """Apply a rule of the map."""
    return analyzer.check_map(memory, select_rules([rule]))


def state(**more: Any) -> ZoneState:
    """Make the state of a zone of node 0."""
    return ZoneState(**{"free_areas": (FreeArea(0, (), (), ()),), "locked": False, "node": 0, "pgdat": PGDAT, **more})


# migratetype


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
    assert judge(memory, "migratetype") == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_migratetype_out_of_range(name: str) -> None:
    found = judge(with_bitmap(LAYOUTS[name], [1, 6, 6, 1, 15, 1, 1, 1]), "migratetype")
    assert [(f.severity, f.start_pfn, f.end_pfn, f.detail["migratetype"]) for f in found] == [
        ("error", 8, 24, 6),
        ("error", 32, 40, 7),
    ]
    assert found[0].detail["migrate_types"] == 6


def test_isolate_is_stored_only_where_it_is_no_bit() -> None:
    values = [1, 5, 1, 1, 1, 1, 1, 1]
    assert judge(with_bitmap(LAYOUTS["sparse"], values), "migratetype") == []
    (found,) = judge(with_bitmap(LAYOUTS["isolate bit"], values), "migratetype")
    assert (found.severity, found.start_pfn) == ("error", 8)
    assert judge(with_bitmap(LAYOUTS["isolate bit"], [0x11, 0x19, 1, 1, 1, 1, 1, 1]), "migratetype") == []


def test_bits_without_a_meaning_are_a_warning() -> None:
    (found,) = judge(with_bitmap(LAYOUTS["isolate bit"], [1, 1, 0x21, 1, 1, 1, 1, 1]), "migratetype")
    assert (found.severity, found.start_pfn, found.detail["value"]) == ("warning", 16, 0x21)


def test_pageblocks_outside_every_zone_or_offline_are_not_judged() -> None:
    memory = with_bitmap(LAYOUTS["sparse"], [7] * 8)
    inside = memory.sections[0]._replace(ranges=((0, 16), (40, 64)))
    memory = dataclasses.replace(memory_map(zone(0, 12, 36), layout=LAYOUTS["sparse"]), sections=(inside,))
    assert [(f.start_pfn, f.end_pfn) for f in judge(memory, "migratetype")] == [(8, 16), (40, 48)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_bits_are_those_of_each_block(name: str) -> None:
    layout = LAYOUTS[name]
    data = bytes(range(1, 17))
    size = layout.word_bits // 8
    words = [int.from_bytes(data[i : i + size], layout.byteorder) for i in range(0, 16, size)]  # type: ignore[arg-type]
    indexes = range(0, 128, layout.bits_per_pageblock)
    expected = [bitmap.pageblock_bits(layout, words[i // layout.word_bits], i) for i in indexes]
    assert bitmap.all_pageblock_bits(layout, data).tolist() == expected


# node-span, node-link


def test_pages_of_a_zone_outside_their_node() -> None:
    memory = memory_map(zone(1, 0, 64), nodes=[Node(0, PGDAT, 8, 40, 64)])
    found = scan(memory, chunk(memory, 0, Part(64, zone=1)), rule="node-span")
    assert summary(found) == [("node-span", "error", 0, 8), ("node-span", "error", 48, 64)]
    assert found[0].detail == {"linked": [0, 1], "node_span": [8, 48]}


def test_pages_outside_their_zone_are_not_the_business_of_node_span() -> None:
    memory = memory_map(zone(1, 8, 40))
    assert scan(memory, chunk(memory, 0, Part(64, zone=1)), rule="node-span") == []


def test_links_of_zones_to_their_node() -> None:
    good = memory_map(zone(1, 0, 64, state=state()))
    assert judge(good, "node-link") == []
    bad = memory_map(zone(1, 0, 64, state=state(node=1, pgdat=PGDAT + 8)))
    assert [f.detail["member"] for f in judge(bad, "node-link")] == ["node", "zone_pgdat"]
    without_numa = memory_map(zone(1, 0, 64, state=state(node=None)))
    assert judge(without_numa, "node-link") == []
    renamed = memory_map(zone(1, 0, 64), nodes=[Node(0, PGDAT, 0, 64, 64, node_id=3)])
    assert [f.detail for f in judge(renamed, "node-link")] == [{"member": "node_id", "value": 3, "expected": 0}]


# section

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
    found = judge(memory, "section")
    assert [f.detail["problem"] for f in found] == problems
    assert all((f.start_pfn, f.end_pfn) == (192, 256) for f in found)


def test_a_single_section_cannot_tell_where_vmemmap_is() -> None:
    memory = dataclasses.replace(memory_map(zone(0, 0, 64)), mem_sections=(SectionEntry(0, FLAGS, 100, 1),))
    assert judge(memory, "section") == []


# zone-overlap


def overlap(*zones: Any, plugged: bool = False) -> list[str]:
    entry = SectionEntry(0, FLAGS[:3] if plugged else FLAGS, 100, 1)
    return [f.severity for f in judge(dataclasses.replace(memory_map(*zones), mem_sections=(entry,)), "zone-overlap")]


def test_zones_that_overlap() -> None:
    assert overlap(zone(1, 0, 64), zone(2, 64, 64)) == []
    assert overlap(zone(1, 0, 72), zone(2, 64, 64)) == ["warning"]
    assert overlap(zone(1, 0, 72), zone(2, 64, 64), plugged=True) == ["note"]
    assert overlap(zone(2, 0, 72), zone(3, 64, 64)) == ["note"]
    assert overlap(zone(1, 0, 72), zone(1, 64, 64, node=1)) == ["note"]
    assert overlap(zone(1, 0, 128), zone(1, 16, 8, node=1), zone(1, 32, 8, node=2)) == ["note", "note"]


# compaction-cursor


@pytest.mark.parametrize(
    ("value", "severities"),
    [(0, []), (64, []), (127, []), (136, []), (56, []), (55, ["note"]), (137, ["note"]), (1 << 50, ["warning"])],
)
def test_cursors(value: int, severities: list[str]) -> None:
    made = zone(1, 64, 64, state=state(cursors=(("compact_cached_free_pfn", value),)))
    memory = dataclasses.replace(memory_map(made), pfn_limit=1 << 40)
    assert [f.severity for f in judge(memory, "compaction-cursor")] == severities


# deferred-init


@pytest.mark.parametrize(("booted", "severity"), [(True, "error"), (False, "note"), (None, "note")])
def test_deferred_pages(booted: Any, severity: str) -> None:
    memory = memory_map(zone(0, 0, 64), nodes=[Node(0, PGDAT, 0, 64, 64, first_deferred_pfn=32)])
    (found,) = judge(dataclasses.replace(memory, booted=booted), "deferred-init")
    assert (found.severity, found.start_pfn, found.end_pfn) == (severity, 32, 64)


# zone-pages


def test_numbers_that_contradict_each_other() -> None:
    made = dataclasses.replace(zone(1, 0, 64), present=65, managed=66)
    memory = memory_map(made, nodes=[Node(0, PGDAT, 0, 64, 64)])
    assert [f.detail["problem"] for f in judge(memory, "zone-pages")] == ["managed", "present", "node present"]


@pytest.mark.parametrize(("managed", "severity"), [(50, None), (51, "warning"), (64, "warning"), (65, "error")])
def test_managed_pages_are_present(managed: int, severity: str | None) -> None:
    memory = memory_map(dataclasses.replace(zone(1, 0, 64), present=50, managed=managed))
    found = [f for f in judge(memory, "zone-pages") if f.detail["problem"] == "managed"]
    assert [f.severity for f in found] == ([severity] if severity else [])


@pytest.mark.parametrize(("free", "severity"), [(58, None), (59, "warning")])
def test_free_pages_are_managed(free: int, severity: str | None) -> None:
    # Pageblocks have 8 pages.
    areas = (FreeArea(free - 2 * 20, (), (), ()), FreeArea(20, (), (), ()))
    memory = memory_map(dataclasses.replace(zone(1, 0, 64), managed=50, state=state(free_areas=areas)))
    found = judge(memory, "zone-pages")
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


# Real dumps


@pytest.mark.parametrize("name", NAMES)
def test_stock_kernels_keep_these_rules(name: str, scanned: Scanned) -> None:
    assert [f for f in scanned(name).findings if f.rule in NEW] == []


@pytest.fixture
def plant(edited: Edited, opened: Opened, scanned: Scanned) -> Any:
    """Give a copy of a stored vmcore to plant faults in."""
    return lambda name: Fault(name, edited(name), opened(name)[0].prog, scanned(name))


# Dump, node and zone of a zone in it.
ZONES = [(AMD64_HEALTHY, 0, 1), (AMD64_NUMA, 1, 1), (ARM64, 0, 0), (S390X, 0, 0), (I386_HOLE, 0, 1)]


def zone_address(fault: Fault, node: int, index: int, member: str) -> int:
    address = fault.zone_member(node, index, member).address_
    assert address is not None
    return int(address)


def new_findings(fault: Fault) -> list[Finding]:
    new, gone = fault.changes()
    assert gone == set()
    return new


@pytest.mark.parametrize(("name", "node", "index"), ZONES)
def test_planted_cursor(name: str, node: int, index: int, plant: Any) -> None:
    fault = plant(name)
    fault.editor.write_word(zone_address(fault, node, index, "compact_cached_free_pfn"), 0x7FFFFFF0)
    (found,) = new_findings(fault)
    # On 64 bits, it could be a pfn.
    assert (found.rule, found.severity) == ("compaction-cursor", "warning" if name == I386_HOLE else "note")
    assert (found.node, found.detail) == (node, {"member": "compact_cached_free_pfn", "value": 0x7FFFFFF0})


@pytest.mark.parametrize(("name", "node", "index"), ZONES)
def test_planted_pgdat(name: str, node: int, index: int, plant: Any) -> None:
    fault = plant(name)
    fault.editor.write_word(zone_address(fault, node, index, "zone_pgdat"), 0x1000)
    (found,) = new_findings(fault)
    assert (found.rule, found.severity, found.detail["value"]) == ("node-link", "error", 0x1000)


@pytest.mark.parametrize(("name", "node", "index"), ZONES)
def test_planted_present_pages(name: str, node: int, index: int, plant: Any) -> None:
    fault = plant(name)
    member = fault.zone_member(node, index, "present_pages")
    fault.editor.write_word(member.address_, member.value_() + 0x1000000)
    found = new_findings(fault)
    assert {f.rule for f in found} == {"zone-pages"}
    assert {f.detail["problem"] for f in found} == {"present", "node present", "counted"}


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, AMD64_400M, S390X])
def test_planted_migratetype(name: str, plant: Any) -> None:
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
    (found,) = (f for f in new_findings(fault) if f.rule != "free-list")
    assert (found.rule, found.severity, found.detail["migratetype"]) == ("migratetype", "error", 7)
    assert (found.start_pfn, found.end_pfn) == (start + pages, start + 2 * pages)


def test_planted_migratetype_with_flatmem(plant: Any) -> None:
    fault = plant(I386_HOLE)
    fault.editor.write_word(fault.zone_member(0, 1, "pageblock_flags").value_(), 0xFFFFFFFF)
    (found,) = new_findings(fault)
    assert (found.rule, found.start_pfn, found.end_pfn) == ("migratetype", 0x1000, 0x1000 + 8 * 512)


def test_planted_node_span(plant: Any) -> None:
    fault = plant(AMD64_NUMA)
    member = fault.prog["node_data"][1].node_spanned_pages
    end = fault.prog["node_data"][1].node_start_pfn.value_() + member.value_()
    fault.editor.write_word(member.address_, member.value_() - 0x200)
    (found,) = new_findings(fault)
    assert (found.rule, found.start_pfn, found.end_pfn) == ("node-span", end - 0x200, end)


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, S390X])
def test_planted_section_flags(name: str, plant: Any) -> None:
    fault = plant(name)
    section = fault.prog["mem_section"][0][1]
    old = section.section_mem_map.value_()
    fault.editor.write_word(section.section_mem_map.address_, old & ~2)
    new, _ = fault.changes()
    assert {f.detail["problem"] for f in new if f.rule == "section"} == {"no memmap"}
    fault.editor.write_word(section.section_mem_map.address_, old & ~1)
    (found,) = new_findings(fault)
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


@pytest.mark.parametrize(("name", "node"), [(AMD64_NUMA, 1), (AMD64_HEALTHY, 0)])
def test_planted_deferred_pages(name: str, node: int, plant: Any) -> None:
    fault = plant(name)
    pgdat = fault.prog["node_data"][node]
    first = pgdat.node_start_pfn.value_() + pgdat.node_spanned_pages.value_() // 2
    fault.editor.write_word(pgdat.first_deferred_pfn.address_, first)
    (found,) = new_findings(fault)
    assert (found.rule, found.start_pfn, found.detail["first_deferred_pfn"]) == ("deferred-init", first, first)
