# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule uninitialized on hand-made maps."""

from __future__ import annotations

import pytest

from mminspect.memmap.chunk import DEFERRED, POISONED, STALE, ZEROED
from tests.kit.handmade import Part, chunk, cut, found, memory_map, scan, zone

MEMORY = memory_map(zone(1, 8, 8), zone(2, 12, 8, node=1))


KINDS = [(ZEROED, "zeroed"), (POISONED, "poisoned"), (STALE, "stale")]


@pytest.mark.parametrize(("state", "kind"), KINDS)
def test_inside_a_zone_it_is_an_error(state: int, kind: str) -> None:
    (finding,) = scan(MEMORY, chunk(MEMORY, 8, Part(2, zone=1), Part(3, state=state)), rule="uninitialized")
    assert (finding.severity, finding.start_pfn, finding.end_pfn) == ("error", 10, 13)
    assert finding.detail == {"kind": kind, "spanned_by": [[0, 1], [1, 2]]}
    assert (finding.node, finding.zone) == (0, "DMA32")


@pytest.mark.parametrize(("state", "kind"), KINDS)
def test_outside_every_zone_it_is_a_warning(state: int, kind: str) -> None:
    (finding,) = scan(MEMORY, chunk(MEMORY, 20, Part(3, state=state)), rule="uninitialized")
    assert (finding.severity, finding.detail["kind"], finding.node, finding.zone) == ("warning", kind, None, None)


def test_one_page_inside_a_zone_makes_the_run_an_error() -> None:
    assert found(MEMORY, Part(3, state=ZEROED), start=19, rule="uninitialized") == [("error", 19, 22)]
    assert found(MEMORY, Part(3, state=ZEROED), start=5, rule="uninitialized") == [("warning", 5, 8)]


def test_deferred_is_a_note() -> None:
    (finding,) = scan(MEMORY, chunk(MEMORY, 8, Part(3, state=DEFERRED)), rule="uninitialized")
    assert (finding.severity, finding.detail["kind"]) == ("note", "deferred")


def test_initialized_pages_are_fine() -> None:
    assert found(MEMORY, Part(8, zone=1), start=8, rule="uninitialized") == []


def test_kinds_that_touch_are_different_findings() -> None:
    parts = (Part(2, state=ZEROED), Part(2, state=POISONED))
    assert found(MEMORY, *parts, start=8, rule="uninitialized") == [("error", 8, 10), ("error", 10, 12)]


def test_run_across_links_and_chunks_is_one_finding() -> None:
    whole = chunk(MEMORY, 8, Part(4, state=STALE, zone=6), Part(8, state=STALE, zone=7))
    findings = scan(MEMORY, *cut(whole, 8), rule="uninitialized")
    assert [(f.start_pfn, f.end_pfn) for f in findings] == [(8, 20)]
