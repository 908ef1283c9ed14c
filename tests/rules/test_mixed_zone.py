# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule mixed-zone on hand-made maps: pageblocks have 8 pages."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mminspect.memmap.chunk import DEFERRED, EXCLUDED, OFFLINE, POISONED, ZEROED
from tests.kit.handmade import FLAT, SPARSE, Part, chunk, found, memory_map, scan, zone

RULE = "mixed-zone"
TWO = memory_map(zone(1, 0, 12), zone(2, 12, 12))


def test_block_of_one_zone_is_not_mixed() -> None:
    assert found(TWO, Part(8, zone=1), rule=RULE) == []


def test_zone_boundary_between_blocks_is_not_mixed() -> None:
    memory = memory_map(zone(1, 0, 8), zone(2, 8, 8))
    assert found(memory, Part(8, zone=1), Part(8, zone=2), rule=RULE) == []


def test_zone_boundary_inside_a_block_is_a_note() -> None:
    assert found(TWO, Part(12, zone=1), Part(12, zone=2), rule=RULE) == [("note", 8, 16)]


def test_node_boundary_inside_a_block_is_a_note() -> None:
    memory = memory_map(zone(1, 0, 12, node=0), zone(1, 12, 12, node=1))
    (finding,) = scan(memory, chunk(memory, 0, Part(12, 0, 1), Part(12, 1, 1)), rule=RULE)
    assert (finding.severity, finding.start_pfn, finding.end_pfn) == ("note", 8, 16)
    assert finding.detail["runs"] == [[8, 12, 0, 1], [12, 16, 1, 1]]
    assert (finding.node, finding.zone) == (0, "DMA32")


def test_first_page_of_another_zone_than_the_rest_is_mixed() -> None:
    memory = memory_map(zone(1, 0, 9), zone(2, 9, 15))
    assert found(memory, Part(9, zone=1), Part(15, zone=2), rule=RULE) == [("note", 8, 16)]


def test_last_page_of_another_zone_than_the_rest_is_mixed() -> None:
    memory = memory_map(zone(1, 0, 15), zone(2, 15, 9))
    assert found(memory, Part(15, zone=1), Part(9, zone=2), rule=RULE) == [("note", 8, 16)]


def test_message_names_some_of_many_zones() -> None:
    memory = memory_map(zone(1, 0, 12), layout=dataclasses.replace(SPARSE, pageblock_order=5))
    parts = [Part(1, node, index) for node in range(4) for index in range(5)]
    (finding,) = scan(memory, chunk(memory, 0, *parts), rule=RULE)
    names = finding.message.split(": ")[0]
    assert (names.count(","), names[-12:]) == (7, " and 12 more")
    assert len(finding.detail["runs"]) == 20


@pytest.mark.parametrize(
    ("parts", "hidden"),
    [
        ((Part(3, zone=1), Part(2, zone=2), Part(3, zone=1)), True),
        ((Part(3, zone=1), Part(5, zone=2)), False),
        ((Part(1, zone=1), Part(6, zone=2), Part(1, zone=1)), True),
        ((Part(3, zone=1), Part(2, zone=2), Part(3, zone=3)), False),
    ],
)
def test_block_is_hidden_where_first_and_last_page_agree(parts: Any, hidden: bool) -> None:
    (finding,) = scan(TWO, chunk(TWO, 0, *parts), rule=RULE)
    assert finding.detail["hidden"] is hidden
    assert ("hidden" in finding.message) is hidden


def test_runs_cover_the_whole_block_and_no_more() -> None:
    (finding,) = scan(TWO, chunk(TWO, 0, Part(11, zone=1), Part(2, zone=2), Part(11, zone=1)), rule=RULE)
    assert finding.detail["runs"] == [[8, 11, 0, 1], [11, 13, 0, 2], [13, 16, 0, 1]]


def test_each_block_of_a_long_stranger_has_its_own_finding() -> None:
    parts = (Part(4, zone=1), Part(16, zone=2), Part(4, zone=1))
    assert found(TWO, *parts, rule=RULE) == [("error", 0, 8), ("error", 16, 24)]


def test_page_of_a_zone_that_does_not_exist_is_an_error() -> None:
    assert found(TWO, Part(6, zone=1), Part(2, zone=5, reserved=True), rule=RULE) == [("error", 0, 8)]


def test_page_of_a_node_that_does_not_exist_is_an_error() -> None:
    assert found(TWO, Part(6, zone=1), Part(2, node=3, zone=1, reserved=True), rule=RULE) == [("error", 0, 8)]


def test_zeroed_pages_inside_a_zone_are_an_error() -> None:
    assert found(TWO, Part(6, zone=1), Part(2, zone=0, state=ZEROED), rule=RULE) == [("error", 0, 8)]


def test_zeroed_pages_outside_every_zone_are_a_warning() -> None:
    memory = memory_map(zone(1, 0, 6))
    assert found(memory, Part(6, zone=1), Part(2, zone=0, state=ZEROED), rule=RULE) == [("warning", 0, 8)]


def test_zeroed_pages_that_decode_to_their_neighbors_zone_are_not_mixed() -> None:
    memory = memory_map(zone(0, 0, 8))
    assert found(memory, Part(6, zone=0), Part(2, zone=0, state=ZEROED), rule=RULE) == []


def test_runs_of_one_link_are_joined_whatever_their_state() -> None:
    memory = memory_map(zone(0, 0, 8), zone(1, 8, 8))
    parts = (Part(2, zone=0), Part(2, zone=0, state=POISONED), Part(4, zone=1))
    (finding,) = scan(memory, chunk(memory, 0, *parts), rule=RULE)
    assert finding.detail["runs"] == [[0, 4, 0, 0], [4, 8, 0, 1]]


def test_reserved_hole_linked_into_another_zones_span_is_a_warning_on_sparsemem() -> None:
    memory = memory_map(zone(1, 0, 8), zone(2, 16, 8))
    assert found(memory, Part(6, zone=1), Part(2, zone=2, reserved=True), rule=RULE) == [("warning", 0, 8)]


def test_the_same_hole_is_an_error_on_flatmem() -> None:
    memory = memory_map(zone(1, 0, 8), zone(2, 16, 8), layout=FLAT)
    assert found(memory, Part(6, zone=1), Part(2, zone=2, reserved=True), rule=RULE) == [("error", 0, 8)]


def test_the_same_hole_is_an_error_where_not_reserved() -> None:
    memory = memory_map(zone(1, 0, 8), zone(2, 16, 8))
    parts = (Part(6, zone=1), Part(1, zone=2), Part(1, zone=2, reserved=True))
    assert found(memory, *parts, rule=RULE) == [("error", 0, 8)]


def test_reserved_page_outside_every_span_is_a_note() -> None:
    memory = memory_map(zone(1, 0, 6), zone(2, 16, 8))
    assert found(memory, Part(6, zone=1), Part(2, zone=2, reserved=True), rule=RULE) == [("note", 0, 8)]


def test_unreadable_pages_do_not_make_a_block_mixed() -> None:
    assert found(TWO, Part(6, zone=1), Part(2, zone=0, state=EXCLUDED), rule=RULE) == []


def test_deferred_pages_do_not_make_a_block_mixed() -> None:
    assert found(TWO, Part(6, zone=1), Part(2, zone=0, state=DEFERRED), rule=RULE) == []


def test_block_is_mixed_across_unreadable_pages() -> None:
    parts = (Part(3, zone=1), Part(2, state=EXCLUDED), Part(3, zone=2, reserved=True))
    (finding,) = scan(TWO, chunk(TWO, 0, *parts), rule=RULE)
    assert finding.detail["runs"] == [[0, 3, 0, 1], [5, 8, 0, 2]]


def test_zones_on_two_sides_of_unreadable_blocks_are_not_mixed() -> None:
    parts = (Part(8, zone=1), Part(8, state=EXCLUDED), Part(8, zone=2))
    assert found(memory_map(zone(1, 0, 8), zone(2, 8, 16)), *parts, rule=RULE) == []


def test_block_with_a_hole_in_the_middle_is_mixed_across_it() -> None:
    """A section may be online in two parts that share a block, as with subsections or ZONE_DEVICE."""
    memory = memory_map(zone(1, 0, 4), zone(2, 4, 8))
    parts = chunk(memory, 0, Part(3, zone=1), Part(2, zone=1, state=OFFLINE), Part(3, zone=2))
    (finding,) = scan(memory, parts, rule=RULE)
    assert (finding.start_pfn, finding.end_pfn) == (0, 8)
    assert finding.detail["runs"] == [[0, 3, 0, 1], [5, 8, 0, 2]]


def test_layouts_are_what_the_tests_take_them_for() -> None:
    assert SPARSE.pageblock_nr_pages == FLAT.pageblock_nr_pages == 8


def test_pages_without_the_link_of_most_of_the_block_are_the_wrong_ones() -> None:
    inside = scan(TWO, chunk(TWO, 0, Part(2, zone=1), Part(3, zone=2), Part(3, zone=1)), rule=RULE)
    assert [f.wrong for f in inside] == [((2, 5),)]
    at_the_start = scan(TWO, chunk(TWO, 0, Part(1, zone=2), Part(7, zone=1)), rule=RULE)
    assert [f.wrong for f in at_the_start] == [((0, 1),)]
    # No link has more than half of the block: all pages may be wrong.
    (half,) = scan(TWO, chunk(TWO, 0, Part(4, zone=1), Part(4, zone=2)), rule=RULE)
    assert (half.wrong, half.is_wrong_at(0), half.is_wrong_at(7), half.is_wrong_at(8)) == ((), True, True, False)


@pytest.mark.parametrize(
    ("parts", "wrong"),
    [
        ((Part(2, zone=1), Part(1, state=EXCLUDED), Part(1, zone=2), Part(4, zone=1)), ((3, 4),)),
        ((Part(1, zone=2), Part(2, state=EXCLUDED), Part(5, zone=1)), ((0, 3),)),
    ],
)
def test_unreadable_pages_count_with_the_first_of_the_block(
    parts: tuple[Part, ...], wrong: tuple[tuple[int, int], ...]
) -> None:
    (finding,) = scan(TWO, chunk(TWO, 0, *parts), rule=RULE)
    assert finding.wrong == wrong


def test_block_is_judged_by_its_first_page_that_its_zone_does_not_span() -> None:
    (legal,) = scan(TWO, chunk(TWO, 8, Part(4, zone=1), Part(4, zone=2)), rule=RULE)
    (late,) = scan(TWO, chunk(TWO, 8, Part(6, zone=1), Part(2, zone=2)), rule=RULE)
    (early,) = scan(TWO, chunk(TWO, 8, Part(2, zone=1), Part(6, zone=2)), rule=RULE)
    (nowhere,) = scan(TWO, chunk(TWO, 8, Part(2, zone=1), Part(6, zone=7)), rule=RULE)
    assert [f.judged_by for f in (legal, late, early, nowhere)] == [None, 12, 10, 10]


def message(memory: Any, *parts: Part) -> str:
    (finding,) = scan(memory, chunk(memory, 0, *parts), rule=RULE)
    return finding.message.partition(": ")[2]


def test_message_says_of_the_pages_what_they_are() -> None:
    """Each reason is that of the pages at hand: their state, flag, memory model and zones."""
    flat = memory_map(zone(1, 0, 6), layout=FLAT)
    behind = message(flat, Part(6, zone=1), Part(2, zone=0, state=ZEROED))
    assert behind == "some are not initialized (zeroed), outside every zone"
    sparse = memory_map(zone(1, 0, 8), zone(2, 16, 8))
    hole = message(sparse, Part(6, zone=1), Part(2, zone=2, reserved=True))
    assert hole.startswith("some are outside node 0 zone Normal, which they link to: PG_reserved")
    assert "SPARSEMEM" in hole
    free = message(sparse, Part(6, zone=1), Part(2, zone=2))
    assert "PG_reserved" not in free.replace("not all are PG_reserved", "")
    assert message(TWO, Part(6, zone=1), Part(2, zone=5)) == "some link to node 0 zone id 5, which doesn't exist"
    legal = memory_map(zone(1, 0, 6), zone(2, 6, 18))
    assert message(legal, Part(6, zone=1), Part(2, zone=2)) == "each page is spanned by its own zone"


@pytest.mark.parametrize(("reserved", "told"), [((True, True), True), ((True, False), False)])
def test_detail_says_whether_all_wrong_pages_are_reserved(reserved: tuple[bool, bool], told: bool) -> None:
    parts = [Part(6, zone=1), *(Part(1, zone=5, reserved=flag) for flag in reserved)]
    (finding,) = scan(TWO, chunk(TWO, 0, *parts), rule=RULE)
    assert finding.detail["reserved"] is told


@pytest.mark.parametrize(
    ("stranger", "hardware"),
    [
        # Normal is 2, 0b010. Movable, 3, differs in one bit, and its span is elsewhere.
        (Part(1, zone=3), "one bit"),
        (Part(1, zone=1), None),
        # The kernel itself links reserved pages of holes elsewhere.
        (Part(1, zone=3, reserved=True), None),
        (Part(2, zone=3), None),
    ],
)
def test_one_bit_looks_like_hardware(stranger: Part, hardware: str | None) -> None:
    memory = memory_map(zone(1, 64, 64), zone(2, 0, 64), zone(3, 128, 64))
    rest = Part(8 - 3 - stranger.count, zone=2)
    (finding,) = scan(memory, chunk(memory, 0, Part(3, zone=2), stranger, rest), rule=RULE)
    assert finding.detail.get("hardware") == hardware
    assert ("one bit from the links of its neighbors (page->flags of pfn 0x3)" in finding.message) == bool(hardware)


def test_a_page_that_its_own_zone_spans_is_no_flipped_bit() -> None:
    memory = memory_map(zone(2, 0, 64), zone(3, 3, 1))
    (finding,) = scan(memory, chunk(memory, 0, Part(3, zone=2), Part(1, zone=3), Part(4, zone=2)), rule=RULE)
    assert "hardware" not in finding.detail
