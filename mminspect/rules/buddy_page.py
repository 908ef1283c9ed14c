# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Free pages whose block can't be.

The first page of a free block is ``PageBuddy()`` and has the order in ``page->private``. ``__free_one_page()`` merges
blocks by these, and ``__rmqueue_smallest()`` hands out ``1 << order`` pages by them, without a look at the others.

- ``order``: larger than the largest order of the allocator; it is an index into ``zone->free_area[]``.
- ``alignment``: the pfn isn't a multiple of the block's size; its buddy's pfn is computed wrongly.
- ``inside``: the page is inside another free block: memory that is handed out twice.
- ``zone``: the block has pages that link to another zone. They are allocated and freed under the wrong lock.
- ``end``: the block ends behind the online memory.

``detail`` has the ``problem``, the ``order`` and the ``block``, ``[start, end]``, where the order can be.

Where the memmap is garbage, a pageblock has hundreds of these. From 33 of a kind on, one finding stands for all: it
tells of the first, and ``detail.pages`` lists all their ranges.

Always an error.

Example: a dump of amd64 6.1 in which ``page->private`` of a free page was set to 99.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mminspect.findings import ERROR
from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation
from mminspect.rules.commits import commit

MESSAGES = {
    "order": "beyond the largest, {max_order}",
    "alignment": "to which its pfn isn't aligned",
    "inside": "inside another free block: it can be allocated twice",
    "zone": "whose block has pages of another zone",
    "end": "whose block ends behind the online memory",
}


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Judge the free pages of a chunk."""
    layout = memory.layout
    free = chunk.free_pages
    if free is None or not len(free.at):
        return
    whole = free.whole
    for position in np.flatnonzero(~whole).tolist():
        order = int(free.order[position])
        yield _match(chunk, int(free.at[position]), "order" if order > layout.max_order else "alignment", order)
    starts = free.at[whole]
    orders = free.order[whole].astype(np.intp)
    ends = starts + (1 << orders)
    bad = {"end": ends > len(chunk.link)}
    highest = np.maximum.accumulate(ends)
    bad["inside"] = np.zeros(len(starts), np.bool_)
    bad["inside"][1:] = starts[1:] < highest[:-1]
    runs = chunk.runs
    changes = np.array(
        [
            run.start - chunk.start_pfn
            for last, run in zip(runs, runs[1:])
            if last.link != run.link and last.state == run.state == INITIALIZED
        ],
        np.intp,
    )
    if len(changes):
        bad["zone"] = np.searchsorted(changes, starts, "right") < np.searchsorted(changes, ends, "left")
    for problem, where in bad.items():
        for position in np.flatnonzero(where).tolist():
            yield _match(chunk, int(starts[position]), problem, int(orders[position]))


def _match(chunk: Chunk, index: int, problem: str, order: int) -> Match:
    start = chunk.start_pfn + index
    return Match(start, start + 1, (problem, order), int(chunk.link[index]))


def alike(match: Match, memory: MemoryMap) -> str:
    """Return the problem of a match. All are errors."""
    problem, _ = match.key
    return str(problem)


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Say what is wrong with the block."""
    problem, order = match.key
    assert match.link is not None
    detail = {"problem": problem, "order": order}
    if problem != "order":
        detail["block"] = [match.start, match.start + (1 << order)]
    why = MESSAGES[problem].format(max_order=memory.layout.max_order)
    return Violation(ERROR, f"free page of {memory.link_name(match.link)} with order {order}, {why}", detail)


RULE = Rule(
    summary="free pages whose block can't be",
    functions=("__free_one_page", "page_is_buddy", "__rmqueue_smallest", "expand", "isolate_freepages_block"),
    commits=(
        commit("787af64d05cd", "a page below the memory was taken for a buddy"),
        commit("b3d40a2b6d10", "free blocks merged beyond their pageblock"),
    ),
    checks=(PageCheck(check, describe, join=False, alike=alike),),
)
