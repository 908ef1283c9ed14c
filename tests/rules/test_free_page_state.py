# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule free-page-state: on struct pages made by hand, in dumps with planted faults, and its early way out."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.rules.free_page_state import _all_clean
from tests.conftest import Plant
from tests.kit.handmade import PAGE
from tests.kit.planted import PLACES, a_free_block
from tests.kit.structpages import LOCKED, UPTODATE, machine


def test_flags_and_references_of_free_pages() -> None:
    made = machine()
    made.words[33, 0] |= np.uint64(1 << LOCKED)
    made.set_int([34, 35], 0x34, 2)
    found = made.scan("free-page-state")
    assert [(f.start_pfn, f.end_pfn, f.detail["flags"], f.detail["refcount"]) for f in found] == [
        (33, 34, ["locked"], 0),
        (34, 36, [], 2),
    ]
    assert all(f.detail["block"] == [32, 48] and f.severity == "error" for f in found)


def test_page_reported_is_legal_on_the_first_page_only() -> None:
    made = machine()
    made.words[32, 0] |= np.uint64(1 << UPTODATE)
    assert made.scan("free-page-state") == []
    made.words[33, 0] |= np.uint64(1 << UPTODATE)
    assert [(f.start_pfn, f.detail["flags"]) for f in made.scan("free-page-state")] == [(33, ["uptodate"])]


def test_poisoned_hardware_may_be_free() -> None:
    made = machine()
    made.words[33, 0] |= np.uint64(made.layout.page.flag("hwpoison"))
    assert made.scan("free-page-state") == []


def test_pages_outside_free_blocks_may_have_flags() -> None:
    made = machine()
    made.words[[16, 22, 24, 63], 0] |= np.uint64(1 << LOCKED)
    assert made.scan("free-page-state") == []


def test_references_of_some_pages_where_no_page_has_a_flag() -> None:
    """Nothing but a few references decides that the chunk isn't dull."""
    made = machine()
    made.words[:, 0] = 1 << 57
    made.set_int(range(64), 0x34, 0)
    assert made.scan("free-page-state") == []
    made.set_int([34, 35], 0x34, 2)
    assert [(f.start_pfn, f.end_pfn, f.detail["refcount"]) for f in made.scan("free-page-state")] == [(34, 36, 2)]


def test_free_block_inside_another() -> None:
    made = machine()
    made.free(36, 1)
    made.set_int([45], 0x34, 3)
    (found,) = made.scan("free-page-state")
    assert (found.start_pfn, found.detail["block"], found.detail["refcount"]) == (45, [32, 48], 3)


@pytest.mark.parametrize("name", PLACES)
def test_planted_flags_and_references(name: str, plant: Plant) -> None:
    fault = plant(name)
    pfn = a_free_block(fault, 3) + 2
    fault.editor.write_word(fault.page(pfn), fault.flags_of(pfn) | 1)
    offset = fault.prog.type("struct page").member("_refcount").offset
    fault.editor.write(fault.page(pfn + 1) + offset, b"\1\0\0\0" if fault.editor.order == "<" else b"\0\0\0\1")
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.start_pfn, f.detail["flags"], f.detail["refcount"]) for f in new] == [
        ("free-page-state", pfn, ["locked"], 0),
        ("free-page-state", pfn + 1, [], 1),
    ]


PAGES = 64


MEMBERS = dataclasses.replace(
    PAGE,
    lru_offset=0,
    private_offset=0,
    compound_head_offset=0,
    compound_mask=False,
    order_offset=0,
    buddy=0,
    flag_names=("locked", "uptodate", "hwpoison"),
)


@st.composite
def blocks(draw: Any) -> list[tuple[int, int]]:
    """Draw free blocks: ascending, not overlapping, often touching each other and both ends."""
    edges = sorted(draw(st.sets(st.integers(0, PAGES), min_size=2)))
    parts = list(zip(edges, edges[1:]))
    chosen = [part for part in parts if draw(st.booleans())]
    return chosen or parts[:1]


@given(
    blocks(),
    st.lists(st.integers(0, PAGES - 1), max_size=3),
    st.lists(st.integers(0, PAGES - 1), max_size=3),
    st.sampled_from([1, 4, 8, 1 << 40]),
)
def test_a_block_is_clean_if_each_of_its_pages_is(
    free: list[tuple[int, int]], flagged: list[int], counted: list[int], flag: int
) -> None:
    flags, refcount = np.zeros(PAGES, np.uint64), np.zeros(PAGES, np.uint32)
    flags[flagged] = flag
    refcount[counted] = 1
    starts, ends = (np.array(column, np.intp) for column in zip(*free))
    chunk: Any = SimpleNamespace(flags=flags, link=np.zeros(PAGES, np.uint32))
    inside = [pfn for start, end in free for pfn in range(start, end)]
    # PG_hwpoison is allowed, and so are bits above the flags: they are the link.
    clean = not any(refcount[pfn] or int(flags[pfn]) & 0b011 for pfn in inside)
    assert _all_clean(chunk, starts, ends, MEMBERS, refcount) == clean
