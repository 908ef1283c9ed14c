# SPDX-License-Identifier: LGPL-2.1-or-later
"""Part of the memmap as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.memmap.digest import ROWS, Digest, digest
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.memorymap.sections import Section

Links = npt.NDArray[np.uint32]
States = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
# States of a memmap entry.
INITIALIZED = 0
ZEROED = 1
POISONED = 2
STALE = 3
DEFERRED = 4
EXCLUDED = 5
NOT_EXPORTED = 6
UNMAPPED = 7
DAMAGED = 8
MISSING = 9
# Not an online page: a hole inside a pageblock.
OFFLINE = 10
UNINITIALIZED_KINDS = {ZEROED: "zeroed", POISONED: "poisoned", STALE: "stale", DEFERRED: "deferred"}
UNREADABLE_REASONS = {
    EXCLUDED: "excluded from the dump",
    NOT_EXPORTED: "not exported by kcore",
    UNMAPPED: "unmapped",
    DAMAGED: "damaged in the dump",
    MISSING: "missing from a dump that is not whole",
}


class Run(NamedTuple):
    """
    Adjacent pages of a chunk with the same link and state.

    :ivar start: First pfn.
    :ivar end: Pfn behind the last.
    """

    start: int
    end: int
    link: int
    state: int

    @property
    def judged(self) -> bool:
        """Whether the links of these pages mean anything: read, and not waiting for initialization."""
        return self.state < DEFERRED


class FreePages(NamedTuple):
    """
    The free pages of a chunk: ``PageBuddy()``, the first page of each free block.

    :ivar at: Indexes in the chunk, ascending.
    :ivar order: What ``buddy_order()`` returns, garbage included.
    :ivar whole: Whether the order can be, and the pfn is aligned to it.
    """

    at: npt.NDArray[np.intp]
    order: Words
    whole: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chunk:
    """
    Part of the memmap: adjacent online pages, as columns.

    :ivar start_pfn: First pfn. Chunks begin and end at pageblock boundaries, except where the online
        memory does.
    :ivar flags: ``page->flags``, shape (pages,).
    :ivar link: Links (:meth:`Layout.link`), shape (pages,).
    :ivar state: One of the states above, shape (pages,).
    :ivar section: The section that all the pages are in, or several that are one to the memmap; see
        :func:`mminspect.memorymap.structpages.stretches`.
    :ivar layout: The kernel's layout.
    :ivar words: The struct pages themselves, in the kernel's byte order, shape (pages, words of one).
    :ivar known_runs: Its runs, where they are known without looking at every page.
    :ivar known_digest: Its digest, where it is known.
    """

    start_pfn: int
    flags: npt.NDArray[np.unsignedinteger]
    link: Links
    state: States
    section: Section
    layout: Layout
    words: npt.NDArray[np.unsignedinteger] | None = None
    known_runs: list[Run] | None = field(default=None, compare=False, repr=False)
    known_digest: Digest | None = field(default=None, compare=False, repr=False)

    @property
    def end_pfn(self) -> int:
        """Pfn behind the last."""
        return self.start_pfn + len(self.link)

    def part(self, start: int, end: int) -> Chunk:
        """Return the pages of ``[start, end)``."""
        part = slice(start - self.start_pfn, end - self.start_pfn)
        words = None if self.words is None else self.words[part]
        return Chunk(start, self.flags[part], self.link[part], self.state[part], self.section, self.layout, words)

    @cached_property
    def runs(self) -> list[Run]:
        """The chunk as runs of equal link and state."""
        if self.known_runs is not None:
            return self.known_runs
        link, state = self.link, self.state
        changes = np.flatnonzero((link[1:] != link[:-1]) | (state[1:] != state[:-1])) + 1
        starts = np.concatenate(([0], changes))
        ends = np.concatenate((changes, [len(link)]))
        first = self.start_pfn
        return [
            Run(first + start, first + end, run_link, run_state)
            for start, end, run_link, run_state in zip(
                starts.tolist(), ends.tolist(), link[starts].tolist(), state[starts].tolist()
            )
        ]

    @cached_property
    def digest(self) -> Digest:
        """What the struct pages have in common, those that are no pages or weren't read included."""
        if self.known_digest is not None:
            return self.known_digest
        assert self.words is not None
        return digest(self.words)

    @cached_property
    def _reserved(self) -> npt.NDArray[np.bool_]:
        result: npt.NDArray[np.bool_] = self.flags & self.flags.dtype.type(self.layout.page.reserved) != 0
        return result

    def reserved(self, start: int, end: int) -> npt.NDArray[np.bool_]:
        """
        Return which pages of ``[start, end)`` are PG_reserved.

        :return: Shape (end - start,).
        """
        return self._reserved[start - self.start_pfn : end - self.start_pfn]

    def column(self, offset: int) -> npt.NDArray[np.unsignedinteger]:
        """
        Return a word of every struct page, in the kernel's byte order.

        :param offset: In bytes.
        """
        assert self.words is not None
        column: npt.NDArray[np.unsignedinteger] = self.words[:, offset // self.words.itemsize]
        return column

    @cached_property
    def _copied(self) -> dict[int, npt.NDArray[np.unsignedinteger]]:
        """Columns that were copied, by index of the word."""
        return {}

    def uints(self, offset: int) -> npt.NDArray[np.unsignedinteger]:
        """
        Return an ``unsigned int`` of every struct page.

        The word that it is in is copied once and kept: ``_mapcount`` and ``_refcount`` share one on 64 bits.

        :param offset: In bytes.
        """
        return _uints(self.copied(offset), self.layout, offset)

    def copied(self, offset: int) -> npt.NDArray[np.unsignedinteger]:
        """
        Return a word of every struct page, as :meth:`column`, one behind the other.

        It is copied once and kept, for what goes over it more than once.

        :param offset: In bytes.
        """
        word = offset // self.layout.word.itemsize
        if word not in self._copied:
            self._copied[word] = np.ascontiguousarray(self.column(offset))
        return self._copied[word]

    def bytes_at(self, offset: int) -> npt.NDArray[np.uint8]:
        """
        Return a byte of every struct page.

        :param offset: In bytes.
        """
        assert self.words is not None
        return self.words.view(np.uint8)[:, offset]

    def addresses(self, index: npt.NDArray[np.intp]) -> Words:
        """
        Return the addresses of struct pages.

        :param index: Indexes in the chunk.
        """
        base = pfn_to_page(self.layout, self.section, self.start_pfn)
        addresses: Words = np.uint64(base) + index.astype(np.uint64) * np.uint64(self.layout.page.size)
        return addresses

    @cached_property
    def free_pages(self) -> FreePages | None:
        """The free pages; ``None`` without struct pages, or if the kernel doesn't say what a free page looks like."""
        page = self.layout.page
        if self.words is None or page.buddy is None:
            return None
        at = self._with_mapcount(page.buddy)
        at = at[self.state[at] == INITIALIZED]
        order = self.column(page.private_offset)[at].astype(np.uint64)
        good = order <= np.uint64(self.layout.max_order)
        size = np.uint64(1) << np.where(good, order, np.uint64(0))
        pfn = at.astype(np.uint64) + np.uint64(self.start_pfn)
        return FreePages(at, order, good & (pfn & (size - np.uint64(1)) == 0))

    def in_free_blocks(self, pfns: Words) -> Words:
        """
        Return which of some pfns of the chunk are inside a free block, and not its first page.

        :param pfns: Ascending.
        """
        free = self.free_pages if len(pfns) else None
        if free is None or not free.whole.any():
            return pfns[:0]
        start = free.at[free.whole].astype(np.uint64) + np.uint64(self.start_pfn)
        end = start + (np.uint64(1) << free.order[free.whole])
        before = np.searchsorted(start, pfns, "left")
        result: Words = pfns[(before > 0) & (pfns < end[np.maximum(before, 1) - 1])]
        return result

    def with_type(self, mask: int, value: int) -> npt.NDArray[np.intp]:
        """
        Find the pages of a type (``struct StructPage.types``), as far as ``_mapcount`` tells; most have -1 there.

        :return: Indexes, ascending.
        """
        offset = self.layout.page.mapcount_offset
        # Rows of the digest in which all pages have -1 have none.
        if (uint_of_words(self.digest.all, self.layout, offset) == 0xFFFFFFFF).all():
            return np.zeros(0, np.intp)
        mapcount = self.uints(offset)
        kind = mapcount.dtype.type
        return np.flatnonzero(mapcount & kind(mask) == kind(value))

    def _with_mapcount(self, value: int) -> npt.NDArray[np.intp]:
        """
        Find the pages whose ``_mapcount`` has a given value; most pages have -1.

        :param value: As 32 bits, and not -1.
        :return: Indexes, ascending.
        """
        count = len(self.link)
        offset = self.layout.page.mapcount_offset
        # Rows of the digest in which all pages have -1 have none.
        rows = np.flatnonzero(uint_of_words(self.digest.all, self.layout, offset) != 0xFFFFFFFF)
        if len(rows) > ROWS // 8:
            mapcount = self.uints(offset)
            return np.flatnonzero(mapcount == mapcount.dtype.type(value))
        index = (np.arange(0, count, ROWS)[:, np.newaxis] + rows).ravel()
        index = index[index < count]
        mapcount = _uints(self.column(offset)[index], self.layout, offset)
        result: npt.NDArray[np.intp] = index[mapcount == mapcount.dtype.type(value)]
        return result


def _uints(column: npt.NDArray[np.unsignedinteger], layout: Layout, offset: int) -> npt.NDArray[np.unsignedinteger]:
    """Return an ``unsigned int`` out of words. They must be contiguous."""
    size = layout.word.itemsize
    return column.view(layout.uint)[offset % size // 4 :: size // 4]


def uint_of_words(
    words: npt.NDArray[np.unsignedinteger], layout: Layout, offset: int
) -> npt.NDArray[np.unsignedinteger]:
    """
    Return an ``unsigned int`` out of struct pages.

    :param words: Shape (pages, words of a struct page).
    :param offset: In bytes.
    """
    return _uints(np.ascontiguousarray(words[:, offset // words.itemsize]), layout, offset)
