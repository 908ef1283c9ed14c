# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The memmap as numpy columns, chunk by chunk.

Whole chunks are read at once and decoded by stride. This is the last place that talks to drgn: what
comes out is arrays.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program

from mminspect.memmap.chunk import (
    DAMAGED,
    EXCLUDED,
    INITIALIZED,
    MISSING,
    NOT_EXPORTED,
    OFFLINE,
    UNMAPPED,
    Chunk,
    Links,
    Run,
)
from mminspect.memmap.decode import Decoder
from mminspect.memmap.digest import ROWS, Digest, combine, digest, digests
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.memorymap.ranges import Range, subtract
from mminspect.memorymap.sections import Section
from mminspect.memorymap.structpages import stretches
from mminspect.program import overlay
from mminspect.program.direct import DirectMemory

# Pages of a chunk: 2 MiB of memmap where a struct page has 64 bytes. What was copied is still in the cache of the CPU
# when it is looked at.
CHUNK_PAGES = 1 << 15
# Error texts that mean a damaged dump. All but the first are libkdumpfile's.
_DAMAGED = (overlay.DAMAGED, "Decompres", "Wrong page size", "compression")
# Runs of a chunk from which on it is judged in parts, of so many pages: in garbage, rules match every page, and what
# they match in 2 MiB of it takes 30 MB.
MANY_RUNS = 1 << 10
PART_PAGES = 1 << 12


def join_in_blocks(ranges: Sequence[Range], nr_pages: int) -> Iterator[Range]:
    """
    Join ranges that are parts of one pageblock.

    :param ranges: Half-open pfn ranges, ascending.
    :param nr_pages: ``pageblock_nr_pages``.
    """
    pending: Range | None = None
    for start, end in ranges:
        if pending is not None and (start & -nr_pages) < pending[1]:
            pending = (pending[0], end)
            continue
        if pending is not None:
            yield pending
        pending = (start, end)
    if pending is not None:
        yield pending


class Memmap:
    """
    Reads the memmap of a kernel.

    :param prog: The kernel.
    :param memory: Its layout, nodes, zones and sections.
    :param live: Whether it is running; memory that can't be read was then not exported.
    :param direct: Reads its dump without a copy, where that can be done.
    """

    def __init__(
        self, prog: Program, memory: MemoryMap, live: bool = False, direct: DirectMemory | None = None
    ) -> None:
        self._prog = prog
        self._memory = memory
        self._live = live
        self._direct = direct
        self._layout = memory.layout
        self._decoder = Decoder(memory)
        self._link_columns: dict[int, Links] = {}
        self._initialized = _constant(INITIALIZED, np.uint8, 0)

    def ranges(self) -> Iterator[tuple[int, int, Section]]:
        """
        Split the online memory into chunks.

        :return: Iterator of (start pfn, end pfn, section), ascending. No pageblock is split.
        """
        for start, end, section in self._joined():
            for low, high in self._cut(start, end, CHUNK_PAGES):
                yield low, high, section

    def windows(self) -> Iterator[tuple[int, int, Section]]:
        """Split the online memory into what :meth:`read` takes at once, as :meth:`ranges` into chunks."""
        for start, end, section in self._joined():
            step = CHUNK_PAGES
            if self._direct is not None and self._direct.holds(self._address(section, start)):
                step = max(1 << (self._direct.at_once // self._layout.page.size).bit_length() - 1, step)
            for low, high in self._cut(start, end, step):
                yield low, high, section

    def _joined(self) -> Iterator[tuple[int, int, Section]]:
        for section in stretches(self._memory):
            for start, end in join_in_blocks(section.ranges, self._layout.pageblock_nr_pages):
                yield start, end, section

    def _cut(self, start: int, end: int, step: int) -> Iterator[Range]:
        """Cut a range at multiples of so many pages, or of a pageblock if that is more."""
        step = max(step, self._layout.pageblock_nr_pages)
        while start < end:
            stop = min(end, (start // step + 1) * step)
            yield start, stop
            start = stop

    def _address(self, section: Section, pfn: int) -> int:
        return pfn_to_page(self._layout, section, pfn)

    def chunks(self) -> Iterator[Chunk]:
        """Read all online memory, one chunk at a time."""
        for window in self.windows():
            yield from self.read(*window)

    def read(self, start: int, end: int, section: Section) -> Iterator[Chunk]:
        """
        Read a window of the memmap, as :meth:`windows` gives it.

        :return: Iterator of its chunks: one if the window is dull, else those of :meth:`ranges`, or parts.
        """
        for chunk in self._read_chunks(start, end, section):
            if len(chunk.runs) <= MANY_RUNS:
                yield chunk
                continue
            # Free blocks are not split either.
            for low, high in self._cut(chunk.start_pfn, chunk.end_pfn, max(PART_PAGES, 1 << self._layout.max_order)):
                yield chunk.part(low, high)

    def _read_chunks(self, start: int, end: int, section: Section) -> Iterator[Chunk]:
        size = (end - start) * self._layout.page.size
        data = None if self._direct is None else self._direct.read(self._address(section, start), size)
        cuts = list(self._cut(start, end, CHUNK_PAGES))
        if data is None:
            for low, high in cuts:
                yield self.chunk(low, high, section)
            return
        words = self._words(data)
        some, every = digests(words, [(low - start, high - start) for low, high in cuts])
        for first, last in self._alike(some, every):
            low, high = cuts[first][0], cuts[last - 1][1]
            parts = [(cuts[at][0] - low, Digest(some[at], every[at])) for at in range(first, last)]
            yield self._chunk(low, words[low - start : high - start], combine(parts), section)

    def _alike(
        self, some: npt.NDArray[np.unsignedinteger], every: npt.NDArray[np.unsignedinteger]
    ) -> Iterator[tuple[int, int]]:
        """
        Find adjacent chunks whose pages have the same flags, and nearly all the same ``_mapcount``.

        There is nothing to look at in them but a few free blocks, so that it doesn't matter that together they are too
        large for the cache of the CPU.

        :param some: As :func:`mminspect.memmap.digest.digests` returns it.
        :param every: Likewise.
        :return: Iterator of (index of the first, index behind the last); other chunks stand alone.
        """
        page = self._layout.page
        flags, mapcount = (o // self._layout.word.itemsize for o in (page.flags_offset, page.mapcount_offset))
        few = np.count_nonzero(some[:, :, mapcount] != every[:, :, mapcount], axis=1) <= ROWS // 8
        common = np.bitwise_and.reduce(every[:, :, flags], axis=1)
        dull = few & (common == np.bitwise_or.reduce(some[:, :, flags], axis=1))
        # Zeros may be no pages; that is seen in all the words of each, and not for so many at once.
        dull &= (common != 0) | (np.bitwise_and.reduce(every[:, :, mapcount], axis=1) != 0)
        apart = np.flatnonzero(~(dull[1:] & dull[:-1] & (common[1:] == common[:-1]))) + 1
        yield from zip([0, *apart.tolist()], [*apart.tolist(), len(common)])

    def _words(self, data: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[np.unsignedinteger]:
        """Get struct pages as words."""
        return np.frombuffer(data, self._layout.word).reshape(-1, self._layout.page.size // self._layout.word.itemsize)

    def chunk(self, start: int, end: int, section: Section) -> Chunk:
        """
        Read part of the memmap through drgn.

        :param start: First pfn.
        :param end: Pfn behind the last.
        :param section: The section that holds them.
        """
        data, unread = self._read(self._address(section, start), (end - start) * self._layout.page.size)
        words = self._words(data)
        # A few pages are sooner looked at one by one.
        common = digest(words) if len(words) >= ROWS else None
        return self._chunk(start, words, common, section, unread)

    def _chunk(
        self,
        start: int,
        words: npt.NDArray[np.unsignedinteger],
        common: Digest | None,
        section: Section,
        unread: Sequence[tuple[int, int, int]] = (),
    ) -> Chunk:
        """
        Decode struct pages.

        :param unread: What isn't there of them: (start offset, end offset, state).
        """
        end = start + len(words)
        size = self._layout.page.size
        if common is not None and not unread and _is_inside(start, end, section):
            only = self._decoder.only_link(words, common, start)
            if only is not None:
                return self._uniform_chunk(start, words, common, only, section)
        # One copy in native order makes everything after it faster than strided access.
        flags = self._decoder.flags(words).astype(self._layout.word.newbyteorder("="))
        link = self._decoder.links(flags)
        state = self._decoder.states(words, flags, link, start)
        for first, last, why in unread:
            # An entry may begin or end in a memory page that was read.
            state[first // size : -(-last // size)] = why
        if len(section.ranges) > 1:
            for low, high in subtract([(start, end)], section.ranges):
                state[low - start : high - start] = OFFLINE
        link[state >= EXCLUDED] = 0
        return Chunk(start, flags, link, state, section, self._layout, words, known_digest=common)

    def _uniform_chunk(
        self, start: int, words: npt.NDArray[np.unsignedinteger], common: Digest, link: int, section: Section
    ) -> Chunk:
        """Make a chunk of initialized pages with one link. Its columns are shared with others like it."""
        size = len(words)
        links = self._link_columns.get(link)
        if links is None or len(links) < size:
            links = self._link_columns[link] = _constant(link, np.uint32, size)
        if len(self._initialized) < size:
            self._initialized = _constant(INITIALIZED, np.uint8, size)
        columns = (self._decoder.flags(words), links[:size], self._initialized[:size])
        runs = [Run(start, start + size, link, INITIALIZED)]
        return Chunk(start, *columns, section, self._layout, words, runs, common)

    def entry(self, pfn: int, section: Section) -> bytes:
        """
        Read one struct page.

        :raises drgn.FaultError: if the target doesn't hold it.
        """
        size = self._layout.page.size
        data: bytes = self._prog.read(self._address(section, pfn), size)
        return data

    def _read(self, address: int, size: int) -> tuple[bytes, list[tuple[int, int, int]]]:
        """
        Read memory as far as the target holds it.

        :return: The bytes, zeros where there are none, and a list of (start offset, end offset, state).
        """
        try:
            return self._prog.read(address, size), []
        except FaultError:
            pass
        page = self._layout.page_size
        data = bytearray(size)
        unread: list[tuple[int, int, int]] = []
        offset = 0
        # Larger steps first: what is left out usually is left out in large pieces or not at all.
        while offset < size:
            for step in (16 * page, page):
                stop = min(size, ((address + offset) // step + 1) * step - address)
                try:
                    data[offset:stop] = self._prog.read(address + offset, stop - offset)
                    break
                except FaultError as e:
                    why = self._why(e)
            else:
                if unread and unread[-1][1] == offset and unread[-1][2] == why:
                    unread[-1] = (unread[-1][0], stop, why)
                else:
                    unread.append((offset, stop, why))
            offset = stop
        return bytes(data), unread

    def _why(self, error: FaultError) -> int:
        if "xcluded" in str(error):
            return EXCLUDED
        if overlay.MISSING in str(error):
            return MISSING
        if any(word in str(error) for word in _DAMAGED):
            return DAMAGED
        return NOT_EXPORTED if self._live else UNMAPPED


def _constant(value: int, kind: type[np.unsignedinteger], size: int) -> npt.NDArray[np.unsignedinteger]:
    """Make a column of one value that nobody can change."""
    column = np.full(size, value, kind)
    column.flags.writeable = False
    return column


def _is_inside(start: int, end: int, section: Section) -> bool:
    """Tell whether pages are all in one range of a section, with no hole among them."""
    if len(section.ranges) == 1:
        return True
    index = bisect_right(section.ranges, (start, sys.maxsize)) - 1
    return index >= 0 and end <= section.ranges[index][1]
