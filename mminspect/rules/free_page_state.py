# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages in free blocks that have page flags or references.

``free_pages_prepare()`` clears ``PAGE_FLAGS_CHECK_AT_PREP`` of every page of a block, and ``check_new_page()`` finds
"bad page state" if one has any when it is handed out, or if its reference count isn't 0. All page flags of the kernel
at hand belong to it, but for PG_hwpoison. PG_reported, on the first page of a block, has the bit of PG_uptodate and is
legal.

A page that is free and locked, on the LRU or referenced is in use by somebody who will write into memory that
the allocator hands out again; or its struct page was overwritten.

``detail`` has the ``flags`` by name, the raw value of ``page->flags`` (``raw``) and the ``refcount`` of the first
page, and the free ``block`` that it is in, ``[start, end]``.

Where the memmap is garbage, a pageblock has hundreds of these. From 33 of a kind on, one finding stands for all: it
tells of the first, and ``detail.pages`` lists all their ranges.

Always an error.

Example: a dump of amd64 6.1 in which PG_locked was set on the second page of a free block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mminspect.findings import ERROR
from mminspect.memmap.chunk import INITIALIZED, Chunk, uint_of_words
from mminspect.memorymap.layout import Layout, StructPage
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation, counted
from mminspect.rules.commits import commit


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find pages in free blocks that are not clean."""
    layout = memory.layout
    free = chunk.free_pages
    if free is None or not len(free.at):
        return
    if _nobody_has(chunk, layout, layout.page):
        return
    whole = free.whole
    starts = free.at[whole]
    ends = np.minimum(starts + (1 << free.order[whole].astype(np.intp)), len(chunk.link))
    # Blocks inside others are the business of rule buddy-page.
    outer = np.ones(len(starts), np.bool_)
    outer[1:] = starts[1:] >= np.maximum.accumulate(ends)[:-1]
    starts, ends = starts[outer], ends[outer]
    if not len(starts):
        # Not one of the blocks is whole.
        return
    refcount = chunk.uints(layout.page.refcount_offset)
    if _all_clean(chunk, starts, ends, layout.page, refcount):
        return
    # Alternately, pages that are in no block and pages that are in one.
    edges = np.concatenate(([0], np.stack((starts, ends), 1).ravel(), [len(chunk.link)]))
    inside = np.repeat(np.arange(len(edges) - 1) % 2 == 1, np.diff(edges))
    kind = chunk.flags.dtype.type
    bad_flags = chunk.flags & kind(layout.page.check_at_prep)
    bad_flags[starts] &= ~kind(layout.page.flag("uptodate"))
    for index in np.flatnonzero(inside & ((bad_flags != 0) | (refcount != 0))).tolist():
        if chunk.state[index] != INITIALIZED:
            continue
        position = int(np.searchsorted(starts, index, "right")) - 1
        start = chunk.start_pfn + index
        block = (chunk.start_pfn + int(starts[position]), chunk.start_pfn + int(ends[position]))
        link = int(chunk.link[index])
        key = (int(bad_flags[index]), int(refcount[index]), link, block)
        yield Match(start, start + 1, key, link, int(chunk.flags[index]))


def _nobody_has(chunk: Chunk, layout: Layout, page: StructPage) -> bool:
    """Tell whether no page at all, free or not, has such a flag or a reference."""
    common = chunk.digest
    flags = common.any_bits(layout.page.flags_offset)
    return not flags & page.check_at_prep and not uint_of_words(common.any, layout, layout.page.refcount_offset).any()


def _all_clean(
    chunk: Chunk,
    starts: npt.NDArray[np.intp],
    ends: npt.NDArray[np.intp],
    page: StructPage,
    refcount: npt.NDArray[np.unsignedinteger],
) -> bool:
    """Tell whether no page of any block has a flag or a reference, as in nearly every chunk. One pass each."""
    edges = np.stack((starts, ends), 1).ravel()
    # reduceat() takes no place behind the end; the last block ends there without being told.
    edges = edges[:-1] if edges[-1] == len(chunk.link) else edges
    # Every other part is a block; what is between two blocks that touch doesn't matter.
    flags = np.bitwise_or.reduceat(chunk.flags, edges)[::2] & chunk.flags.dtype.type(page.check_at_prep)
    return not flags.any() and not np.bitwise_or.reduceat(refcount, edges)[::2].any()


def flag_names(page: StructPage, flags: int) -> list[str]:
    """Get the names of page flags."""
    return [name for bit, name in enumerate(page.flag_names) if flags >> bit & 1]


def alike(match: Match, memory: MemoryMap) -> None:
    """Return that all matches are of a kind."""


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Name the flags."""
    flags, refcount, link, block = match.key
    page = memory.layout.page
    names = flag_names(page, flags)
    count = refcount - (1 << 32) if refcount >> 31 else refcount
    what = [f"flags {', '.join(names)}"] if names else []
    what += [f"{count} references"] if count else []
    return Violation(
        ERROR,
        f"{counted(match.pages, 'page')} in the free block [{block[0]:#x}, {block[1]:#x}) of "
        f"{memory.link_name(link)} with {' and '.join(what)}: bad page state as soon as it is allocated",
        {"flags": names, "raw": match.value, "refcount": count, "block": list(block)},
    )


RULE = Rule(
    summary="pages in free blocks with page flags or references",
    functions=("free_pages_prepare", "check_new_page", "bad_page", "__free_one_page"),
    commits=(commit("907ec5fca3dc", "struct pages that nobody initialized"),),
    checks=(PageCheck(check, describe, alike=alike),),
)
