# SPDX-License-Identifier: LGPL-2.1-or-later
"""The early way out of rule free-page-state, against one look at each page."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mminspect.rules.free_page_state import _all_clean
from tests.handmade import PAGE

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
