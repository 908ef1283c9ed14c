# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule buddy-page: on struct pages made by hand, and in dumps with planted faults."""

from __future__ import annotations

from typing import Any

import pytest

from mminspect.memmap.chunk import UNMAPPED, Chunk
from mminspect.rules.registry import all_rules
from mminspect.walk.engine import Scan
from tests.conftest import Plant
from tests.kit.handmade import nothing_known
from tests.kit.planted import PLACES, a_free_block
from tests.kit.structpages import Machine, machine, rows


@pytest.mark.parametrize(
    ("pfn", "order", "expected"),
    [
        (40, 5, ("order", "error", 40, 41)),
        (40, 1 << 63, ("order", "error", 40, 41)),
        (41, 1, ("alignment", "error", 41, 42)),
        (4, 1, ("inside", "error", 4, 5)),
    ],
)
def test_blocks_that_cannot_be(pfn: int, order: int, expected: Any) -> None:
    made = Machine()
    made.free(0, 3)
    made.set_int([pfn], 0x30, 0xF0000000)
    made.words[pfn, 5] = order
    assert rows(made.scan("buddy-page")) == [expected]


def test_free_block_with_pages_of_two_zones() -> None:
    made = machine()
    made.link[40:48] = made.layout.link(0, 2)
    assert rows(made.scan("buddy-page")) == [("zone", "error", 32, 33)]
    # The boundary may be at the edge of a block.
    made.link[32:40] = made.layout.link(0, 2)
    assert made.scan("buddy-page") == []


def test_free_block_that_ends_behind_the_memory() -> None:
    made = Machine()
    made.free(48, 4)
    memory = made.memory()
    (whole,) = made.chunks()
    short = Chunk(
        32, whole.flags[32:56], whole.link[32:56], whole.state[32:56], whole.section, whole.layout, whole.words[32:56]
    )  # type: ignore[index]
    found = Scan(memory, None, [all_rules()["buddy-page"]], nothing_known).findings_in([short])  # type: ignore[arg-type]
    assert rows(found) == [("end", "error", 48, 49)]


def test_what_is_not_readable_is_no_free_page() -> None:
    made = machine()
    made.words[0, 5] = 99
    made.state[0] = UNMAPPED
    assert made.scan("buddy-page") == []


@pytest.mark.parametrize("name", PLACES)
def test_planted_order(name: str, plant: Plant) -> None:
    fault = plant(name)
    pfn = a_free_block(fault, 3)
    offset = fault.prog.type("struct page").member("private").offset
    fault.editor.write_word(fault.page(pfn) + offset, 99)
    new, gone = fault.changes()
    assert gone == set()
    assert [f.detail["problem"] for f in new if f.rule == "buddy-page"] == ["order"]
    assert {f.detail["problem"] for f in new if f.rule == "free-list"} == {"count", "link"}
    assert {f.rule for f in new} == {"buddy-page", "free-list"}
