# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults planted into copies of dumps raise exactly their rules."""

from __future__ import annotations

import pytest

from mminspect.errors import LayoutError
from tests.conftest import Plant
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, AMD64_LOW_RAM, AMD64_NUMA, ARM64, I386_HOLE, S390X, summary

# A pageblock in the middle of a zone, per dump: (block, node, zone, zone name).
PLACES = {
    AMD64_HEALTHY: (0x2000, 0, 1, "DMA32"),
    AMD64_NUMA: (0x30000, 1, 1, "DMA32"),
    ARM64: (0x48000, 0, 0, "DMA"),
    S390X: (0x8000, 0, 0, "DMA"),
    I386_HOLE: (0x2000, 0, 1, "Normal"),
}


@pytest.mark.parametrize("name", PLACES)
def test_poisoned_pages(name: str, plant: Plant) -> None:
    fault = plant(name)
    block, node, zone, zone_name = PLACES[name]
    fault.fill(block + 0x10, block + 0x14, 0xFF)
    new, gone = fault.changes()
    assert gone == set()
    end = block + (1 << fault.machine.pageblock_order)
    expected = {
        ("mixed-zone", "error", block, end),
        ("uninitialized", "error", block + 0x10, block + 0x14),
    }
    if name == I386_HOLE:
        # All ones is zone 3, Movable, which exists and is empty.
        expected |= {
            ("zone-span", "error", block + 0x10, block + 0x14),
            ("bitmap-bounds", "error", block + 0x10, block + 0x14),
        }
    else:
        expected.add(("zone-id", "error", block + 0x10, block + 0x14))
    assert set(summary(new)) == expected
    assert len(new) == len(expected)
    details = {f.rule: f for f in new}
    assert details["uninitialized"].detail == {"kind": "poisoned", "spanned_by": [[node, zone]]}
    assert (details["uninitialized"].node, details["uninitialized"].zone) == (node, zone_name)
    assert details["mixed-zone"].detail["hidden"] is True
    if name == I386_HOLE:
        assert details["bitmap-bounds"].detail["missing"] is True


@pytest.mark.parametrize("name", PLACES)
def test_zeroed_pages(name: str, plant: Plant) -> None:
    fault = plant(name)
    block, node, zone, _ = PLACES[name]
    fault.fill(block + 0x10, block + 0x14, 0)
    new, gone = fault.changes()
    assert gone == set()
    hole = (block + 0x10, block + 0x14)
    expected = {("uninitialized", "error", *hole)}
    if (node, zone) != (0, 0):
        # Zeros link to zone 0 of node 0.
        expected |= {
            ("mixed-zone", "error", block, block + (1 << fault.machine.pageblock_order)),
            ("zone-span", "error", *hole),
        }
    if name == I386_HOLE:
        expected.add(("bitmap-bounds", "error", *hole))
    assert set(summary(new)) == expected
    kinds = [f.detail["kind"] for f in new if f.rule == "uninitialized"]
    assert kinds == ["zeroed"]


def test_zeroed_page_beyond_every_zone_is_a_warning(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    fault.fill(0x17000, 0x17001, 0)
    new, gone = fault.changes()
    assert gone == {("zone-span", "note", 0x12681, 0x18000)}
    assert summary(new) == [
        ("zone-span", "note", 0x12681, 0x17000),
        ("uninitialized", "warning", 0x17000, 0x17001),
        ("zone-span", "error", 0x17000, 0x17001),
        ("mixed-zone", "warning", 0x17000, 0x17200),
        ("zone-span", "note", 0x17001, 0x18000),
    ]


def test_stale_pages(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    fault.fill(0x2010, 0x2012, 0xEE)
    fault.fill(0x2012, 0x2014, 0xDD)
    new, gone = fault.changes()
    assert gone == set()
    assert summary(new) == [
        ("mixed-zone", "error", 0x2000, 0x2200),
        ("uninitialized", "error", 0x2010, 0x2014),
        ("zone-id", "error", 0x2010, 0x2014),
    ]
    assert new[1].detail["kind"] == "stale"
    assert new[2].detail["stale"] is True


@pytest.mark.parametrize("reserved", [False, True])
def test_wrong_zone(plant: Plant, reserved: bool) -> None:
    """The pages are System RAM. PG_reserved doesn't prove that nobody will free them."""
    severity = "error"
    fault = plant(AMD64_HEALTHY)
    fault.link(0x2010, 0x2014, 0, 2, reserved)
    new, gone = fault.changes()
    assert gone == set()
    assert summary(new) == [
        ("mixed-zone", severity, 0x2000, 0x2200),
        ("zone-span", severity, 0x2010, 0x2014),
    ]
    assert new[0].detail["runs"] == [[0x2000, 0x2010, 0, 1], [0x2010, 0x2014, 0, 2], [0x2014, 0x2200, 0, 1]]
    assert new[1].detail == {"linked": [0, 2], "spanned_by": [[0, 1]], "reserved": reserved}


def test_wrong_zone_at_a_blocks_end_is_not_hidden_and_breaks_contiguous(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    fault.link(0x21FF, 0x2200, 0, 2)
    new, gone = fault.changes()
    assert gone == set()
    assert sorted(summary(new)) == [
        ("contiguous", "error", 0x1000, 0x12681),
        ("mixed-zone", "error", 0x2000, 0x2200),
        ("zone-span", "error", 0x21FF, 0x2200),
    ]
    assert {f.rule: f.detail for f in new}["contiguous"] == {"blocks": [[0x2000, 0x2200]]}
    assert {f.rule: f.detail for f in new}["mixed-zone"]["hidden"] is False


def test_whole_block_of_a_wrong_zone_is_not_mixed(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    fault.link(0x2000, 0x2200, 0, 2)
    new, gone = fault.changes()
    assert gone == set()
    assert sorted(summary(new)) == [
        ("contiguous", "error", 0x1000, 0x12681),
        ("zone-span", "error", 0x2000, 0x2200),
    ]


def test_zone_id_out_of_the_array(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    fault.link(0x2010, 0x2014, 0, 7, reserved=True)
    new, gone = fault.changes()
    assert gone == set()
    assert summary(new) == [("mixed-zone", "error", 0x2000, 0x2200), ("zone-id", "error", 0x2010, 0x2014)]
    pgdat = fault.prog["node_data"][0]
    size = fault.prog.type("struct zone").size
    assert new[1].detail["zone_struct"] == pgdat.node_zones.address_ + 7 * size
    assert (new[1].detail["zone_id"], new[1].detail["node"]) == (7, 0)


def test_wrong_node_that_exists(plant: Plant) -> None:
    fault = plant(AMD64_NUMA)
    fault.link(0x8010, 0x8014, 1, 1)
    new, gone = fault.changes()
    assert gone == set()
    # The pages are in a free block.
    assert summary(new[:1]) == [("buddy-page", "error", 0x8000, 0x8001)]
    new = new[1:]
    assert summary(new) == [("mixed-zone", "error", 0x8000, 0x8200), ("zone-span", "error", 0x8010, 0x8014)]
    assert new[1].detail == {"linked": [1, 1], "spanned_by": [[0, 1]], "reserved": False}


def test_wrong_node_that_does_not_exist(plant: Plant) -> None:
    fault = plant(AMD64_NUMA)
    fault.link(0x8010, 0x8014, 7, 1)
    new, gone = fault.changes()
    assert gone == set()
    # The pages are in a free block.
    assert summary(new[:1]) == [("buddy-page", "error", 0x8000, 0x8001)]
    new = new[1:]
    assert summary(new) == [("mixed-zone", "error", 0x8000, 0x8200), ("zone-id", "error", 0x8010, 0x8014)]
    assert (new[1].node, new[1].detail["node"], new[1].detail["zone_struct"]) == (7, 7, None)


def test_hole_that_is_not_reserved(plant: Plant) -> None:
    fault = plant(AMD64_LOW_RAM)
    fault.link(0x7FE8, 0x7FE9, 0, 2, reserved=False)
    new, gone = fault.changes()
    assert gone == {("zone-span", "warning", 0x7FE0, 0x8000), ("mixed-zone", "warning", 0x7E00, 0x8000)}
    assert summary(new) == [("mixed-zone", "error", 0x7E00, 0x8000), ("zone-span", "error", 0x7FE0, 0x8000)]
    assert new[1].detail["reserved"] is False


def test_pfn_0_that_is_not_reserved(plant: Plant) -> None:
    fault = plant(AMD64_400M)
    fault.link(0, 1, 0, 0, reserved=False)
    new, gone = fault.changes()
    assert gone == {("zone-span", "note", 0, 1)}
    assert summary(new) == [("zone-span", "error", 0, 1)]


def test_section_without_bitmap(plant: Plant) -> None:
    fault = plant(AMD64_400M)
    section = fault.prog["mem_section"][0][1]
    fault.editor.write_word(section.usage.address_, 0)
    new, gone = fault.changes()
    assert gone == set()
    assert summary(new) == [("bitmap-bounds", "error", 0x8000, 0x10000)]
    assert new[0].detail == {"missing": True, "section": 1}


def test_flatmem_zone_without_bitmap(plant: Plant) -> None:
    fault = plant(I386_HOLE)
    fault.editor.write_word(fault.zone_member(0, 1, "pageblock_flags").address_, 0)
    new, gone = fault.changes()
    assert gone == set()
    assert summary(new) == [
        ("bitmap-bounds", "error", 0x1000, 0xA17B),
        ("bitmap-bounds", "error", 0xA217, 225278),
    ]
    assert [f.detail for f in new] == [{"missing": True, "linked": [0, 1]}] * 2


def test_flatmem_page_of_a_zone_above_it_wraps(plant: Plant) -> None:
    fault = plant(I386_HOLE)
    fault.link(0x2010, 0x2011, 0, 2)
    new, gone = fault.changes()
    assert gone == set()
    assert summary(new) == [
        ("mixed-zone", "error", 0x2000, 0x2200),
        ("bitmap-bounds", "error", 0x2010, 0x2011),
        ("zone-span", "error", 0x2010, 0x2011),
    ]
    # HighMem starts at 0x36ffe, its bitmap counts from 0x36e00.
    assert new[1].detail["index"] == ((0x2010 - 0x36E00) % (1 << 32) >> 9) * 4
    assert new[1].detail["outside"] > 0
    assert new[1].detail["bitmap"] == fault.zone_member(0, 2, "pageblock_flags").value_()


def test_contiguous_forced_over_a_hole_between_sections(plant: Plant) -> None:
    fault = plant(AMD64_LOW_RAM)
    fault.editor.write(fault.zone_member(0, 1, "contiguous").address_, b"\1")
    new, gone = fault.changes()
    assert gone == set()
    assert summary(new) == [("contiguous", "error", 0x1000, 0x100000)]
    # The block before the hole ends with pages of zone Normal.
    blocks = new[0].detail["blocks"]
    assert (blocks[0][0], blocks[-1][1]) == (0x7E00, 0x100000)
    assert sum(end - start for start, end in blocks) == 0x100000 - 0x7E00


def test_contiguous_forced_over_zeroed_pages(plant: Plant) -> None:
    fault = plant(I386_HOLE)
    fault.editor.write(fault.zone_member(0, 1, "contiguous").address_, b"\1")
    new, gone = fault.changes()
    assert gone == set()
    assert summary(new) == [("contiguous", "error", 0x1000, 225278)]
    blocks = new[0].detail["blocks"]
    assert (blocks[0][0], blocks[-1][1], sum(e - s for s, e in blocks)) == (0xA000, 0xA400, 0x400)


def test_zone_that_lost_its_end(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    fault.editor.write_word(fault.zone_member(0, 1, "spanned_pages").address_, 0x12600 - 0x1000)
    new, gone = fault.changes()
    assert gone == {("zone-span", "note", 0x12681, 0x18000)}
    assert [row for row in summary(new) if row[0] != "zone-pages"] == [("zone-span", "error", 0x12600, 0x18000)]
    assert {(f.rule, f.detail["problem"]) for f in new[:-1]} == {("zone-pages", "present"), ("zone-pages", "counted")}


def test_deferred_initialization_is_a_note_and_nothing_else(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    pgdat = fault.prog["node_data"][0]
    fault.editor.write_word(pgdat.first_deferred_pfn.address_, 0x12000)
    fault.fill(0x12000, 0x12681, 0)
    new, gone = fault.changes()
    new = [f for f in new if f.rule != "deferred-init"]
    assert gone == set()
    assert summary(new) == [("uninitialized", "note", 0x12000, 0x12681)]
    assert new[0].detail["kind"] == "deferred"


def test_deferred_initialization_finds_pages_that_were_initialized_early(plant: Plant) -> None:
    fault = plant(AMD64_HEALTHY)
    pgdat = fault.prog["node_data"][0]
    fault.editor.write_word(pgdat.first_deferred_pfn.address_, 0x12000)
    fault.fill(0x12000, 0x12100, 0xFF)
    fault.fill(0x12110, 0x12681, 0xFF)
    new, gone = fault.changes()
    new = [f for f in new if f.rule != "deferred-init"]
    assert gone == set()
    assert summary(new) == [
        ("uninitialized", "note", 0x12000, 0x12100),
        ("uninitialized", "note", 0x12110, 0x12681),
    ]


def test_layout_that_fits_no_page_is_refused(plant: Plant) -> None:
    """Calibration: no page of zone Normal decodes to it."""
    fault = plant(AMD64_HEALTHY)
    fault.editor.write_word(fault.zone_member(0, 2, "zone_start_pfn").address_, 0x12681)
    fault.editor.write_word(fault.zone_member(0, 2, "spanned_pages").address_, 0x1000)
    fault.editor.write_word(fault.zone_member(0, 2, "present_pages").address_, 0x1000)
    with pytest.raises(LayoutError, match="no page of node 0 zone Normal decodes to it"):
        fault.scan()
