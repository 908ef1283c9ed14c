# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule zone-span on hand-made maps."""

from __future__ import annotations

from mminspect.memmap.chunk import DEFERRED, ZEROED
from tests.kit.handmade import FLAT, Part, chunk, cut, found, memory_map, scan, zone

RULE = "zone-span"
APART = memory_map(zone(1, 8, 8), zone(2, 32, 8))


def test_page_inside_its_zone_is_fine() -> None:
    assert found(APART, Part(8, zone=1), start=8, rule=RULE) == []


def test_first_and_last_page_of_the_span_are_inside_and_their_neighbors_outside() -> None:
    assert found(APART, Part(10, zone=1, reserved=True), start=7, rule=RULE) == [("note", 7, 8), ("note", 16, 17)]


def test_reserved_page_outside_every_span_is_a_note() -> None:
    assert found(APART, Part(4, zone=1, reserved=True), start=0, rule=RULE) == [("note", 0, 4)]


def test_reserved_page_inside_another_zone_is_a_warning_on_sparsemem() -> None:
    assert found(APART, Part(4, zone=1, reserved=True), start=33, rule=RULE) == [("warning", 33, 37)]


def test_reserved_page_inside_another_zone_is_an_error_on_flatmem() -> None:
    memory = memory_map(zone(1, 8, 8), zone(2, 32, 8), layout=FLAT)
    assert found(memory, Part(4, zone=1, reserved=True), start=33, rule=RULE) == [("error", 33, 37)]


def test_reserved_page_outside_every_span_is_a_note_on_flatmem_too() -> None:
    memory = memory_map(zone(1, 8, 8), layout=FLAT)
    assert found(memory, Part(4, zone=1, reserved=True), start=0, rule=RULE) == [("note", 0, 4)]


def test_page_that_is_not_reserved_is_an_error_outside_every_span() -> None:
    assert found(APART, Part(4, zone=1), start=0, rule=RULE) == [("error", 0, 4)]


def test_one_page_that_is_not_reserved_makes_the_run_an_error() -> None:
    parts = (Part(3, zone=1, reserved=True), Part(1, zone=1), Part(4, zone=1, reserved=True))
    assert found(APART, *parts, start=0, rule=RULE) == [("error", 0, 8)]


def test_link_to_an_empty_zone_is_never_spanned() -> None:
    assert found(APART, Part(2, zone=3, reserved=True), start=8, rule=RULE) == [("warning", 8, 10)]


def test_runs_of_different_zones_are_different_findings() -> None:
    parts = (Part(2, zone=3, reserved=True), Part(2, zone=4, reserved=True))
    assert found(APART, *parts, start=0, rule=RULE) == [("note", 0, 2), ("note", 2, 4)]


def test_pages_on_both_sides_of_a_span_are_two_findings() -> None:
    assert found(APART, Part(24, zone=1, reserved=True), start=0, rule=RULE) == [("note", 0, 8), ("note", 16, 24)]


def test_detail_names_the_zone_linked_to_and_the_zones_that_span() -> None:
    memory = memory_map(zone(1, 0, 8), zone(2, 8, 8), zone(1, 10, 8, node=1))
    (finding,) = scan(memory, chunk(memory, 10, Part(4, zone=1, reserved=True)), rule=RULE)
    assert finding.detail == {"linked": [0, 1], "spanned_by": [[0, 2], [1, 1]], "reserved": True}
    assert (finding.node, finding.zone) == (0, "DMA32")


def test_link_to_a_zone_that_does_not_exist_is_another_rules_business() -> None:
    assert found(APART, Part(4, zone=5, reserved=True), start=0, rule=RULE) == []


def test_zeroed_pages_are_judged_by_their_link() -> None:
    assert found(APART, Part(4, zone=0, state=ZEROED), start=8, rule=RULE) == [("error", 8, 12)]


def test_deferred_pages_are_not_judged() -> None:
    assert found(APART, Part(4, zone=0, state=DEFERRED), start=8, rule=RULE) == []


def test_run_across_chunks_is_one_finding() -> None:
    whole = chunk(APART, 40, Part(8, zone=1, reserved=True), Part(8, zone=1), Part(8, zone=1, reserved=True))
    findings = scan(APART, *cut(whole, 8), rule=RULE)
    assert [(f.severity, f.start_pfn, f.end_pfn, f.detail["reserved"]) for f in findings] == [("error", 40, 64, False)]


def test_runs_in_chunks_that_do_not_touch_are_two_findings() -> None:
    part = Part(8, zone=1, reserved=True)
    findings = scan(APART, chunk(APART, 40, part), chunk(APART, 56, part), rule=RULE)
    assert [(f.start_pfn, f.end_pfn) for f in findings] == [(40, 48), (56, 64)]


def test_message_says_whether_a_zone_spans_all_of_the_pages() -> None:
    memory = memory_map(zone(1, 0, 10), zone(2, 32, 8))
    whole = scan(memory, chunk(memory, 0, Part(4, zone=1), Part(4, zone=2, reserved=True), Part(2, zone=1)), rule=RULE)
    part = scan(memory, chunk(memory, 0, Part(8, zone=1), Part(8, zone=2, reserved=True)), rule=RULE)
    assert "they are inside node 0 zone DMA32" in whole[0].message
    assert "they are in part inside node 0 zone DMA32" in part[0].message
