# SPDX-License-Identifier: LGPL-2.1-or-later
"""Part of the memmap as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.memmap.digest import Digest, digest
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.sections import Section

Links = npt.NDArray[np.uint32]
States = npt.NDArray[np.uint8]
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
# Not an online page: a hole inside a pageblock.
OFFLINE = 9
UNINITIALIZED_KINDS = {ZEROED: "zeroed", POISONED: "poisoned", STALE: "stale", DEFERRED: "deferred"}
UNREADABLE_REASONS = {
    EXCLUDED: "excluded from the dump",
    NOT_EXPORTED: "not exported by kcore",
    UNMAPPED: "unmapped",
    DAMAGED: "damaged in the dump",
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
        """Whether the links of these pages mean anything: read, and not waiting for initialisation."""
        return self.state < DEFERRED


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
    :ivar words: The struct pages themselves, in the kernel's byte order, shape (pages, words of one).
    """

    start_pfn: int
    flags: npt.NDArray[np.unsignedinteger]
    link: Links
    state: States
    section: Section
    words: npt.NDArray[np.unsignedinteger] | None = None

    @property
    def end_pfn(self) -> int:
        """Pfn behind the last."""
        return self.start_pfn + len(self.link)

    def part(self, start: int, end: int) -> Chunk:
        """Get some of the pages: those of ``[start, end)``."""
        part = slice(start - self.start_pfn, end - self.start_pfn)
        words = None if self.words is None else self.words[part]
        return Chunk(start, self.flags[part], self.link[part], self.state[part], self.section, words)

    def runs(self) -> list[Run]:
        """Get the chunk as runs of equal link and state. Cached."""
        cached = self.__dict__.get("_runs")
        if cached is None:
            cached = self._find_runs()
            self.__dict__["_runs"] = cached
        result: list[Run] = cached
        return result

    def set_runs(self, runs: list[Run]) -> None:
        """Tell the runs, where they are known without looking at every page."""
        self.__dict__["_runs"] = runs

    def digest(self) -> Digest:
        """Get what the struct pages have in common, those that are no pages or weren't read included. Cached."""
        cached = self.__dict__.get("_digest")
        if cached is None:
            assert self.words is not None
            cached = self.__dict__["_digest"] = digest(self.words)
        result: Digest = cached
        return result

    def set_digest(self, known: Digest) -> None:
        """Tell the digest."""
        self.__dict__["_digest"] = known

    def _find_runs(self) -> list[Run]:
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

    def reserved(self, layout: Layout, start: int, end: int) -> npt.NDArray[np.bool_]:
        """
        Tell which pages of ``[start, end)`` are PG_reserved. Cached for the whole chunk.

        :return: Shape (end - start,).
        """
        bits: npt.NDArray[np.bool_] | None = self.__dict__.get("_reserved")
        if bits is None:
            bits = self.flags & self.flags.dtype.type(1 << layout.pg_reserved) != 0
            self.__dict__["_reserved"] = bits
        return bits[start - self.start_pfn : end - self.start_pfn]
