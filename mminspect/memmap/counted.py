# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the pages of a chunk are, counted by compiled code where that does what :mod:`mminspect.memmap.picture` does."""

from __future__ import annotations

import sys
from array import array

import numpy as np

from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memmap.picture import NR_CODES, TYPES, Cells, Rules, free_segments
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.mmzone import pfn_to_page

try:
    from mminspect.memmap._classes import count
except ImportError:
    # It is compiled where there is a compiler when mminspect is installed.
    count = None  # type: ignore[assignment]

MAX_TYPES = 8
# Counts of a chunk at most. Where cells are smaller, runs are fewer than counts.
MAX_COUNTS = 1 << 16
_BITS = NR_CODES.bit_length() - 1


class Counter:
    """
    Counts what pages are.

    :param layout: The kernel's layout.
    :param rules: Where cells are cut, and what links and pageblocks mean.
    """

    def __init__(self, layout: Layout, rules: Rules) -> None:
        self._rules = rules
        self._spec = _spec(layout)

    def look(self, chunk: Chunk) -> tuple[Cells, int, tuple[int, int] | None] | None:
        """
        Count the pages of a chunk.

        :return: Cells of which some may have to be joined, and what :class:`mminspect.memmap.picture.Classes` calls
            ``before`` and ``head``. ``None`` if this can't be done here.
        """
        rules, runs, first = self._rules, chunk.runs, chunk.start_pfn
        pages = len(chunk.link)
        if self._spec is None or chunk.words is None or len(runs) != 1 or runs[0].state != INITIALIZED:
            return None
        if runs[0].link in rules.devices or not chunk.words.flags.c_contiguous:
            return None
        end = first + pages
        if rules.span is not None and not (rules.span[0] <= first and end <= rules.span[1]):
            return None
        low, high = np.searchsorted(rules.cuts, (first + 1, end))
        if low != high or any(start < end and first < stop for start, stop, _ in rules.special):
            return None
        order = rules.order
        cells = (end - 1 >> order) - (first >> order) + 1
        if cells * NR_CODES > MAX_COUNTS:
            return None
        edges, free = free_segments(chunk)
        counts = np.zeros(cells * NR_CODES, np.int64)
        base = pfn_to_page(chunk.layout, chunk.section, first) % (1 << 64)
        skip = first - (first >> order << order)
        before, head, code = count(chunk.words, self._spec, base, skip, order, edges, free, counts)
        found = np.flatnonzero(counts)
        start = np.arange(first >> order, (end - 1 >> order) + 1, dtype=np.int64) << order
        stop = start + (1 << order)
        start[0], stop[-1] = first, end
        link = np.full(cells, runs[0].link, np.int64)
        made = Cells(start, stop, link, found >> _BITS, (found % NR_CODES).astype(np.uint8), counts[found])
        return made, first + before if before else -1, (first + head, code) if head >= 0 else None


def _spec(layout: Layout) -> bytes | None:
    """Get the numbers that the compiled code takes, ``None`` if it doesn't do for a kernel, or isn't there."""
    page = layout.page
    types = [(mask, value, TYPES[name]) for name, mask, value in page.types if name in TYPES]
    if count is None or layout.word_bits != 64 or layout.order != "<" or sys.byteorder != "little":
        return None
    if len(types) > MAX_TYPES:
        return None
    word = layout.word.itemsize
    offset, mask, value = page.hugetlb or (0, 0, 0)
    compound = page.compound_head_offset
    numbers = [
        page.size,
        page.flags_offset // word * word,
        page.mapcount_offset,
        0 if compound is None else compound // word * word,
        compound is not None,
        bool(page.compound_mask),
        *(page.flag("head"), page.lru, page.flag("swapbacked"), page.flag("slab"), page.reserved),
        *(offset // word * word, mask, value),
        len(types),
        *(number for item in types for number in item),
        *(0 for _ in range(3 * (MAX_TYPES - len(types)))),
    ]
    return array("Q", map(int, numbers)).tobytes()
