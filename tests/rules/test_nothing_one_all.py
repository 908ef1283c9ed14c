# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every rule bears arrays of which nothing, one element or all is special."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.memmap.chunk import DEFERRED, EXCLUDED, INITIALIZED, OFFLINE, POISONED, ZEROED
from mminspect.rules.compound_page import check
from mminspect.rules.registry import all_rules
from tests.kit.structpages import LAYOUT, MASKED, PAGES, STRICT, Machine, machine

STATES = (INITIALIZED, ZEROED, POISONED, DEFERRED, EXCLUDED, OFFLINE)
WORDS = (0, 1, 1 << 6, 1 << 57, (1 << 64) - 1, 0x6B6B6B6B6B6B6B6B, 1 << 63, 0xFFFFEA0000000041, 0xF0000000)
FREE = 0xF0000000


def some() -> st.SearchStrategy[list[int]]:
    """Choose no page, one, all, or a few."""
    return st.one_of(
        st.just([]),
        st.integers(0, PAGES - 1).map(lambda pfn: [pfn]),
        st.just(list(range(PAGES))),
        st.lists(st.integers(0, PAGES - 1), max_size=8, unique=True),
    )


@pytest.mark.parametrize("rule", sorted(all_rules()))
@given(
    layout=st.sampled_from((LAYOUT, STRICT, MASKED)),
    empty=st.booleans(),
    states=st.lists(st.tuples(st.sampled_from(STATES), some()), max_size=2),
    words=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(WORDS), some()), max_size=4),
    free=st.tuples(some(), st.integers(0, 20)),
    links=st.tuples(some(), st.integers(0, 127)),
    size=st.sampled_from((1, 2, 8, 13, PAGES)),
)
def test_rules_bear_nothing_one_and_all(
    rule: str,
    layout: object,
    empty: bool,
    states: Sequence[tuple[int, list[int]]],
    words: Sequence[tuple[int, int, list[int]]],
    free: tuple[list[int], int],
    links: tuple[list[int], int],
    size: int,
) -> None:
    made = Machine(layout) if empty else machine(layout)
    areas = made.areas()
    for column, value, pfns in words:
        made.words[pfns, column] = np.uint64(value)
    made.set_int(free[0], 0x30, FREE)
    made.words[free[0], 5] = free[1]
    made.link[links[0]] = links[1]
    for state, pfns in states:
        made.state[pfns] = state
    for finding in made.scan(rule, areas, size):
        assert finding.rule == rule
        assert 0 <= finding.start_pfn < finding.end_pfn <= 2 * PAGES
        assert finding.message


def test_free_page_state_bears_blocks_of_which_not_one_is_whole() -> None:
    """A free block larger than the chunk, whose end isn't known, is no reason to fail."""
    made = Machine()
    made.set_int([60], 0x30, FREE)
    made.words[60, 5] = 4
    made.words[61, 0] |= np.uint64(1)
    assert made.scan("free-page-state") == []


def test_adjacent_heads_with_orders_that_can_not_be_are_one_finding() -> None:
    made = Machine()
    made.words[8:14, 0] |= np.uint64(1 << 6)
    # The order of a head is in the next page.
    made.words[9:15, 2] = np.arange(100, 106, dtype=np.uint64)
    (finding,) = made.scan("compound-page")
    assert (finding.start_pfn, finding.end_pfn) == (8, 14)
    assert finding.detail == {"problem": "order", "head": 8, "order": 100}


def test_heads_within_heads_claim_no_more_than_a_few_times_all_pages() -> None:
    made = Machine()
    made.words[:, 0] |= np.uint64(1 << 6)
    # The order of a head is in the next page.
    made.words[:, 2] = 22
    memory = made.memory(made.areas())
    found = list(check(made.chunks()[0], memory))
    # Each head but the first is behind one whose tail it should be. The last has its order in the next chunk.
    assert [(match.start, match.key[:2]) for match in found] == [(pfn, ("tail", pfn - 1)) for pfn in range(1, PAGES)]
