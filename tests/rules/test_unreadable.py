# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule unreadable on hand-made maps."""

from __future__ import annotations

import pytest

from mminspect.memmap.chunk import DEFERRED, EXCLUDED, NOT_EXPORTED, POISONED, STALE, UNMAPPED, ZEROED
from tests.kit.handmade import Part, chunk, found, memory_map, scan, zone

MEMORY = memory_map(zone(1, 8, 8), zone(2, 12, 8, node=1))


REASONS = [(EXCLUDED, "excluded from the dump"), (NOT_EXPORTED, "not exported by kcore"), (UNMAPPED, "unmapped")]


def test_what_can_be_read_is_never_unreadable() -> None:
    parts = [Part(1, state=state) for state in (DEFERRED, ZEROED, POISONED, STALE)]
    assert found(MEMORY, *parts, start=8, rule="unreadable") == []


@pytest.mark.parametrize(("state", "why"), REASONS)
def test_unreadable_is_a_note_with_the_reason_and_never_uninitialized(state: int, why: str) -> None:
    findings = scan(MEMORY, chunk(MEMORY, 8, Part(2, zone=1), Part(3, state=state), Part(1, zone=1)))
    # The map's own numbers are another matter.
    findings = [f for f in findings if f.rule not in ("zone-overlap", "zone-pages")]
    assert [(f.rule, f.severity, f.start_pfn, f.end_pfn, f.detail) for f in findings] == [
        ("unreadable", "note", 10, 13, {"why": why})
    ]


def test_reasons_that_touch_are_different_findings() -> None:
    parts = (Part(2, state=EXCLUDED), Part(2, state=UNMAPPED))
    assert found(MEMORY, *parts, start=8, rule="unreadable") == [("note", 8, 10), ("note", 10, 12)]
