# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the pages of chunks are, as exact runs, and as cells of a power of two of pages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.memmap.chunk import (
    EXCLUDED,
    INITIALIZED,
    OFFLINE,
    Chunk,
    Run,
    uint_of_words,
)
from mminspect.memmap.digest import ROWS

Pfns = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

# What a page is: what counts more is a larger number. Free pages of order n are FREE + n.
(UNKNOWN, CMA, ISOLATED, COMPOUND, FILE, ANON, HUGETLB, SLAB, TABLE, BALLOON, RESERVED, DEVICE) = range(12)
# Those of entries that no initializer wrote, or that the target doesn't hold: BY_STATE + the state.
BY_STATE = 12
NAMES = (
    *("unknown", "cma", "isolated", "compound", "file", "anon"),
    *("hugetlb", "slab", "page table", "offline", "reserved", "device"),
    *("initialized", "zeroed", "poisoned", "stale", "deferred"),
    *("excluded", "not exported", "unmapped", "damaged", "missing"),
)
# Tails of a compound page whose head is in an earlier chunk. No result has them.
CONTINUED = 31
FREE = 32
NR_CODES = 64
TYPES = {"table": TABLE, "slab": SLAB, "hugetlb": HUGETLB, "offline": BALLOON}
# Links that are none: of pages that can't be read, and of cells with more links than MAX_PARTS.
NO_LINK = 0xFFFFFFFF
SEVERAL = 0xFFFFFFFE
MAX_PARTS = 16


def name_of(code: int) -> str:
    """Name a class of pages."""
    return f"free {code - FREE}" if code >= FREE else NAMES[code]


class Rules(NamedTuple):
    """
    What is the same for all chunks of a walk.

    :ivar order: Cells have 1 << order pages.
    :ivar cuts: Pfns at which cells are cut, ascending.
    :ivar special: Pageblocks of CMA or isolated ones, as (start, end, CMA or ISOLATED), ascending.
    :ivar devices: Links to zones of devices.
    :ivar span: The pfns to look at, half-open; ``None`` for all.
    """

    order: int
    cuts: Pfns
    special: Sequence[tuple[int, int, int]] = ()
    devices: Sequence[int] = ()
    span: tuple[int, int] | None = None


class Classes(NamedTuple):
    """
    The pages of a chunk as runs of one class.

    :ivar start: Index of the first page of each run. The first is 0.
    :ivar code: What the pages are.
    :ivar before: Pfn of the head before the chunk that the tails with CONTINUED lead to, -1 if there are none.
    :ivar head: (pfn, code) of the last head whose tails may go on behind the chunk, ``None`` if there is none.
    """

    start: Pfns
    code: Codes
    before: int = -1
    head: tuple[int, int] | None = None


class Cells(NamedTuple):
    """
    Adjacent pages, counted by class.

    :ivar start: First pfn of each cell, ascending.
    :ivar end: Pfn behind the last.
    :ivar link: What all its pages link to, NO_LINK, or SEVERAL.
    :ivar row: Of each count: index of the cell, ascending.
    :ivar code: Of each count: the class.
    :ivar pages: Of each count: the pages of the class.
    """

    start: Pfns
    end: Pfns
    link: Pfns
    row: npt.NDArray[np.intp]
    code: Codes
    pages: Pfns


def _runs(code: Codes) -> tuple[Pfns, Codes]:
    """Get (starts, codes) of a column."""
    start = np.concatenate(([0], np.flatnonzero(code[1:] != code[:-1]) + 1)).astype(np.int64)
    return start, code[start]


def _spread(start: Pfns, values: Codes, count: int) -> Codes:
    """Make a column that has each value from its start to the next; the starts ascend, before the first is 0."""
    steps = np.zeros(count, np.uint8)
    steps[start[:1]] = values[:1]
    # Differences wrap around, and so do their sums.
    steps[start[1:]] = values[1:] - values[:-1]
    result: Codes = np.add.accumulate(steps, dtype=np.uint8)
    return result


def free_segments(chunk: Chunk) -> tuple[Pfns, Codes]:
    """Get alternately what is in no free block, as 0, and free blocks: (edges, with the chunk's length last; codes)."""
    free = chunk.free_pages
    count = len(chunk.link)
    if free is None or not len(free.at):
        return np.array([0, count], np.int64), np.zeros(1, np.uint8)
    starts = free.at[free.whole].astype(np.int64)
    orders = free.order[free.whole].astype(np.int64)
    ends = np.minimum(starts + (np.int64(1) << orders), count)
    outer = np.ones(len(starts), np.bool_)
    outer[1:] = starts[1:] >= np.maximum.accumulate(ends)[:-1]
    starts, ends, orders = starts[outer], ends[outer], orders[outer]
    edges = np.concatenate(([0], np.stack((starts, ends), 1).ravel(), [count])).astype(np.int64)
    codes = np.zeros(len(edges) - 1, np.uint8)
    codes[1::2] = FREE + orders
    return edges, codes


def _plain(chunk: Chunk) -> int | None:
    """Get the class of all pages of a chunk that are in no free block, if the digest tells that they have one."""
    page = chunk.layout.page
    if chunk.known_runs is None or len(chunk.known_runs) != 1 or chunk.words is None or page.buddy is None:
        return None
    common = chunk.digest
    if page.compound_head_offset is None or common.any_bits(page.compound_head_offset) & 1:
        return None
    some, every = common.any_bits(page.flags_offset), common.all_bits(page.flags_offset)
    if some & (page.flag("head") | page.lru | page.flag("slab")) or (some ^ every) & page.reserved:
        return None
    # Rows in which all pages have -1 in _mapcount have no page of a type.
    rows = np.flatnonzero(uint_of_words(common.all, chunk.layout, page.mapcount_offset) != 0xFFFFFFFF)
    if len(rows) > ROWS // 8:
        return None
    index = (np.arange(0, len(chunk.link), ROWS)[:, np.newaxis] + rows).ravel()
    index = index[index < len(chunk.link)]
    values = uint_of_words(chunk.words[index], chunk.layout, page.mapcount_offset)
    if not ((values == 0xFFFFFFFF) | (values == page.buddy)).all():
        return None
    return RESERVED if every & page.reserved else UNKNOWN


def is_plain(chunk: Chunk, devices: Sequence[int] = ()) -> bool:
    """Tell whether the digest says what all pages of a chunk are that are in no free block; see :func:`classify`."""
    return _plain(chunk) is not None and chunk.runs[0].link not in devices


def classify(chunk: Chunk, devices: Sequence[int] = ()) -> Classes:
    """
    Tell what the pages of a chunk are.

    :param devices: Links to zones of devices.
    """
    edges, free = free_segments(chunk)
    plain = _plain(chunk)
    if plain is not None and chunk.runs[0].link not in devices:
        code = np.where(free, free, np.uint8(plain)).astype(np.uint8)
        some = edges[1:] > edges[:-1]
        start, code = edges[:-1][some], code[some]
        new = np.concatenate(([True], code[1:] != code[:-1]))
        return Classes(start[new], code[new])
    codes = _own_classes(chunk, devices)
    in_free = None
    if len(free) > 1:
        some = edges[1:] > edges[:-1]
        in_free = _spread(edges[:-1][some], free[some], len(codes))
    before, head = _give_to_tails(chunk, codes, in_free)
    if in_free is not None:
        np.maximum(codes, in_free, out=codes)
    for run in chunk.runs:
        if run.state != INITIALIZED:
            codes[run.start - chunk.start_pfn : run.end - chunk.start_pfn] = BY_STATE + run.state
    return Classes(*_runs(codes), before, head)


def _own_classes(chunk: Chunk, devices: Sequence[int]) -> Codes:
    """Tell what each page is by its own entry; tails have none that says so."""
    page = chunk.layout.page
    # Flags are below the fields of node and zone, in the low 32 bits.
    flags = chunk.flags.astype(np.uint32)
    codes = np.zeros(len(flags), np.uint8)
    names = int(np.bitwise_or.reduce(flags))

    def give(mask: int, code: int) -> None:
        if names & mask:
            np.maximum(codes, (flags & np.uint32(mask) != 0).view(np.uint8) * np.uint8(code), out=codes)

    give(page.flag("head"), COMPOUND)
    if names & page.lru:
        lru = (flags & np.uint32(page.lru) != 0).view(np.uint8)
        swap_backed = (flags & np.uint32(page.flag("swapbacked")) != 0).view(np.uint8)
        np.maximum(codes, lru * (np.uint8(FILE) + swap_backed * np.uint8(ANON - FILE)), out=codes)
    give(page.flag("slab"), SLAB)
    if chunk.words is not None:
        if page.hugetlb is not None and names & page.flag("head"):
            _give_hugetlb(chunk, codes, np.flatnonzero(flags & np.uint32(page.flag("head"))))
        mapcount = chunk.uints(page.mapcount_offset)
        typed = np.flatnonzero(mapcount.view(mapcount.dtype.str.replace("u", "i")) < -1)
        values = mapcount[typed]
        for name, mask, value in page.types:
            if name in TYPES:
                of_type = typed[values & values.dtype.type(mask) == value]
                codes[of_type] = np.maximum(codes[of_type], np.uint8(TYPES[name]))
    give(page.reserved, RESERVED)
    for link in devices:
        codes[chunk.link == link] = DEVICE
    return codes


def _give_hugetlb(chunk: Chunk, codes: Codes, heads: npt.NDArray[np.intp]) -> None:
    """Mark heads whose second entry says that they are hugetlb pages."""
    assert chunk.layout.page.hugetlb is not None
    offset, mask, value = chunk.layout.page.hugetlb
    heads = heads[heads + 1 < len(codes)]
    words = chunk.column(offset)[heads + 1].astype(np.uint64)
    heads = heads[words & np.uint64(mask) == np.uint64(value)]
    codes[heads] = np.maximum(codes[heads], np.uint8(HUGETLB))


def _give_to_tails(chunk: Chunk, codes: Codes, free: Codes | None) -> tuple[int, tuple[int, int] | None]:
    """
    Give tails the class of their head; return ``before`` and ``head`` of :class:`Classes`.

    :param free: Not 0 where a page is in a free block: its own entry says nothing then.
    """
    page = chunk.layout.page
    if page.compound_head_offset is None or chunk.words is None:
        return -1, None
    if not chunk.digest.any_bits(page.compound_head_offset) & 1:
        return -1, None
    info = chunk.copied(page.compound_head_offset)
    says_tail = (info & info.dtype.type(1)).astype(np.bool_)
    is_tail = says_tail if free is None else says_tail & (free == 0)
    plain = len(chunk.runs) == 1 and chunk.runs[0].state == INITIALIZED
    if not plain:
        is_tail = is_tail & (chunk.state == INITIALIZED)
    # Adjacent tails that say the same have one head.
    joined = np.zeros(len(info) + 1, np.bool_)
    joined[1:-1] = (info[1:] == info[:-1]) & is_tail[:-1]
    first = np.flatnonzero(is_tail & ~joined[:-1])
    if not len(first):
        return -1, None
    last = np.flatnonzero(is_tail & ~(joined[1:] & np.append(is_tail[1:], False)))
    heads = info[first].astype(np.uint64) & ~np.uint64(1)
    address = chunk.addresses(first)
    if page.compound_mask:
        heads &= address
    distance = (address - heads).view(np.int64)
    steps = distance // page.size
    leads = first - steps
    real = (steps > 0) & (steps * page.size == distance)
    inside = real & (leads >= 0)
    at = leads[inside]
    inside[inside] = ~says_tail[at] & (chunk.state[at] == INITIALIZED)
    given = np.full(len(first), COMPOUND, np.uint8)
    given[inside] = codes[leads[inside]]
    outside = np.flatnonzero(real & (leads < 0))
    before = -1
    if len(outside):
        before = int(leads[outside[0]]) + chunk.start_pfn
        given[outside[leads[outside] == leads[outside[0]]]] = CONTINUED
    # The first tail behind a head leads to it; behind a copy of a head it leads elsewhere.
    seconds = np.flatnonzero(inside & (steps == 1))
    head = None
    if len(seconds):
        index = int(leads[seconds[-1]])
        head = (chunk.start_pfn + index, int(codes[index]))
    codes[is_tail] = np.repeat(given, last - first + 1)
    return before, head


def cells_of(chunk: Chunk, classes: Classes, rules: Rules) -> Cells:
    """Count the pages of a chunk by cell, link and class."""
    first, count = chunk.start_pfn, len(chunk.link)
    runs: list[Run] = chunk.runs
    low, high = np.searchsorted(rules.cuts, (first, first + count))
    marks = np.zeros(count, np.bool_)
    marks[classes.start] = True
    marks[np.array([run.start - first for run in runs], np.int64)] = True
    marks[rules.cuts[low:high] - first] = True
    marks[-first % (1 << rules.order) :: 1 << rules.order] = True
    special = [s for s in rules.special if s[0] < first + count and first < s[1]]
    for begin, stop, _ in special:
        marks[[max(begin - first, 0), min(stop - first, count - 1)]] = True
    start = np.flatnonzero(marks)
    code = classes.code[np.searchsorted(classes.start, start, "right") - 1]
    links = np.array([NO_LINK if run.state >= EXCLUDED else run.link for run in runs], np.int64)
    starts = np.array([run.start - first for run in runs], np.int64)
    link = links[np.searchsorted(starts, start, "right") - 1]
    end = np.append(start[1:], count)
    for begin, stop, what in special:
        code[(code == UNKNOWN) & (start >= begin - first) & (end <= stop - first)] = what
    keep = code != BY_STATE + OFFLINE
    if rules.span is not None:
        keep &= (start >= rules.span[0] - first) & (end <= rules.span[1] - first)
    start, end, code = start[keep] + first, end[keep] + first, code[keep]
    return join(Cells(start, end, link[keep], np.arange(len(start)), code, end - start), rules)


def _joined(cells: Cells, new: npt.NDArray[np.bool_]) -> Cells:
    """Join each cell with those behind it that aren't marked as new; sum up counts."""
    group = np.cumsum(new) - 1
    begins = np.flatnonzero(new)
    end = cells.end[np.append(begins[1:], len(new)) - 1] if len(new) else cells.end
    keys = group[cells.row] * NR_CODES + cells.code
    size = len(begins) * NR_CODES
    if size <= max(8 * len(keys), 1 << 16):
        sums = np.bincount(keys, cells.pages, size) if len(keys) else np.zeros(size)
        found = np.flatnonzero(sums)
        pages = sums[found].astype(np.int64)
    else:
        found, where = np.unique(keys, return_inverse=True)
        pages = np.bincount(where, cells.pages).astype(np.int64)
    row, code = found // NR_CODES, (found % NR_CODES).astype(np.uint8)
    return Cells(cells.start[begins], end, cells.link[begins], row, code, pages)


def _apart_at_edges(cells: Cells, order: int) -> Cells:
    """
    Take the parts of a place at the ends of cells off those that are of one class and lie in several places.

    What is joined to such a part, of the chunk before or behind, must not reach into the next place.
    """
    first, last = -(-cells.start >> order) << order, cells.end >> order << order
    wide = (cells.start >> order) != (cells.end - 1 >> order)
    head, middle, tail = wide & (cells.start < first), wide & (first < last), wide & (last < cells.end)
    if not (head | tail).any():
        return cells
    pieces = np.where(wide, head.astype(np.int64) + middle + tail, 1)
    place = np.cumsum(pieces) - pieces
    start, end = np.repeat(cells.start, pieces), np.repeat(cells.end, pieces)
    cut = place[head]
    end[cut] = first[head]
    start[cut + 1] = first[head]
    cut = (place + pieces - 1)[tail]
    start[cut] = last[tail]
    end[cut - 1] = last[tail]
    is_wide = wide[cells.row]
    rows = np.concatenate((place[cells.row[~is_wide]], np.flatnonzero(np.repeat(wide, pieces))))
    code = np.concatenate((cells.code[~is_wide], np.repeat(cells.code[is_wide], pieces[cells.row[is_wide]])))
    counts = np.concatenate((cells.pages[~is_wide], (end - start)[np.repeat(wide, pieces)]))
    order_of = np.argsort(rows, kind="stable")
    return Cells(start, end, np.repeat(cells.link, pieces), rows[order_of], code[order_of], counts[order_of])


def join(cells: Cells, rules: Rules) -> Cells:
    """Make one cell of those that are in one place, link alike and touch, and of those that are all of one class."""
    if not len(cells.start):
        return cells
    cells = _apart_at_edges(cells, rules.order)
    place = cells.start >> rules.order
    part = np.searchsorted(rules.cuts, cells.start, "right")
    apart = np.ones(len(place), np.bool_)
    apart[1:] = (place[1:] != place[:-1]) | (part[1:] != part[:-1]) | (cells.start[1:] != cells.end[:-1])
    new = apart.copy()
    new[1:] |= cells.link[1:] != cells.link[:-1]
    number = np.cumsum(apart) - 1
    crowded = np.bincount(number, new) > MAX_PARTS
    if crowded.any():
        cells = cells._replace(link=np.where(crowded[number], SEVERAL, cells.link))
        new = apart.copy()
        new[1:] |= cells.link[1:] != cells.link[:-1]
    cells = _joined(cells, new)
    single = np.bincount(cells.row, minlength=len(cells.start)) == 1
    code = cells.code[np.searchsorted(cells.row, np.arange(len(cells.start)))]
    part = np.searchsorted(rules.cuts, cells.start, "right")
    same = np.zeros(len(single), np.bool_)
    same[1:] = single[1:] & single[:-1] & (code[1:] == code[:-1]) & (cells.link[1:] == cells.link[:-1])
    same[1:] &= (part[1:] == part[:-1]) & (cells.start[1:] == cells.end[:-1]) & (cells.link[1:] != SEVERAL)
    return _joined(cells, ~same)


def concatenate(parts: Sequence[Cells]) -> Cells:
    """Put cells behind each other."""
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Cells(nothing, nothing, nothing, nothing, nothing.astype(np.uint8), nothing)
    offsets = np.cumsum([0, *(len(part.start) for part in parts[:-1])])
    rows = np.concatenate([part.row + offset for part, offset in zip(parts, offsets)])
    return Cells(
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.link for part in parts]),
        rows,
        np.concatenate([part.code for part in parts]),
        np.concatenate([part.pages for part in parts]),
    )
