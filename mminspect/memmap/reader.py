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
from drgn import FaultError, Program, sizeof

from mminspect.errors import LayoutError
from mminspect.memmap.chunk import (
    DAMAGED,
    DEFERRED,
    EXCLUDED,
    INITIALIZED,
    NOT_EXPORTED,
    OFFLINE,
    POISONED,
    STALE,
    UNMAPPED,
    ZEROED,
    Chunk,
    Links,
    Run,
    States,
)
from mminspect.memmap.digest import ROWS, Digest, combine, digest, digests
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range, subtract
from mminspect.memorymap.sections import Section
from mminspect.memorymap.structpages import stretches
from mminspect.program import overlay
from mminspect.program.direct import DirectMemory

# Pages of a chunk: 2 MiB of memmap where a struct page has 64 bytes. What was copied is still in the cache of the CPU
# when it is looked at.
CHUNK_PAGES = 1 << 15
# What is said of pages of a dump that is damaged; but for the first, libkdumpfile's words.
_DAMAGED = (overlay.DAMAGED, "Decompres", "Wrong page size", "compression")
# A reference count beyond this in an entry whose link can't be is no count but stale data.
MAX_REFCOUNT = 1 << 24
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
        layout = self._layout = memory.layout
        self._word = np.dtype(f"{'<' if layout.byteorder == 'little' else '>'}u{layout.word_bits // 8}")
        self._invalid_link = _invalid_links(memory)
        self._section_nodes = _section_to_node_table(prog, layout)
        self._link_shift, self._link_mask = _link_bits(layout)
        # Struct pages behind these are to be looked at one by one; see _states().
        self._deferred = [
            (node.first_deferred_pfn, node.start_pfn + node.spanned, node.nid)
            for node in memory.nodes
            if node.first_deferred_pfn is not None
        ]
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
                step = max(1 << (self._direct.at_once // self._layout.page_struct_size).bit_length() - 1, step)
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
        """Get the address of a struct page."""
        layout = self._layout
        return (section.mem_map + pfn * layout.page_struct_size) & ((1 << layout.word_bits) - 1)

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
            if len(chunk.runs()) <= MANY_RUNS:
                yield chunk
                continue
            # Free blocks are not split either.
            for low, high in self._cut(chunk.start_pfn, chunk.end_pfn, max(PART_PAGES, 1 << self._layout.max_order)):
                yield chunk.part(low, high)

    def _read_chunks(self, start: int, end: int, section: Section) -> Iterator[Chunk]:
        size = (end - start) * self._layout.page_struct_size
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
        flags, mapcount = (o // self._word.itemsize for o in (self._layout.flags_offset, self._layout.mapcount_offset))
        few = np.count_nonzero(some[:, :, mapcount] != every[:, :, mapcount], axis=1) <= ROWS // 8
        common = np.bitwise_and.reduce(every[:, :, flags], axis=1)
        dull = few & (common == np.bitwise_or.reduce(some[:, :, flags], axis=1))
        # Zeros may be no pages; that is seen in all the words of each, and not for so many at once.
        dull &= (common != 0) | (np.bitwise_and.reduce(every[:, :, mapcount], axis=1) != 0)
        apart = np.flatnonzero(~(dull[1:] & dull[:-1] & (common[1:] == common[:-1]))) + 1
        yield from zip([0, *apart.tolist()], [*apart.tolist(), len(common)])

    def _words(self, data: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[np.unsignedinteger]:
        """Get struct pages as words."""
        return np.frombuffer(data, self._word).reshape(-1, self._layout.page_struct_size // self._word.itemsize)

    def chunk(self, start: int, end: int, section: Section) -> Chunk:
        """
        Read part of the memmap through drgn.

        :param start: First pfn.
        :param end: Pfn behind the last.
        :param section: The section that holds them.
        """
        data, unread = self._read(self._address(section, start), (end - start) * self._layout.page_struct_size)
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
        size = self._layout.page_struct_size
        flags = words[:, self._layout.flags_offset // self._word.itemsize]
        if common is not None and not unread and _is_inside(start, end, section):
            only = self._only_link(words, common, start, end)
            if only is not None:
                return self._uniform_chunk(start, words, common, only, section)
        # One copy in native order makes everything after it faster than strided access.
        flags = flags.astype(self._word.newbyteorder("="))
        link = self._links(flags)
        state = self._states(words, flags, link, start, end)
        for first, last, why in unread:
            # An entry may begin or end in a memory page that was read.
            state[first // size : -(-last // size)] = why
        if len(section.ranges) > 1:
            for low, high in subtract([(start, end)], section.ranges):
                state[low - start : high - start] = OFFLINE
        link[state >= EXCLUDED] = 0
        chunk = Chunk(start, flags, link, state, section, words)
        if common is not None:
            chunk.set_digest(common)
        return chunk

    def _only_link(self, words: npt.NDArray[np.unsignedinteger], common: Digest, start: int, end: int) -> int | None:
        """
        Get the link of pages that all have the same, and that an initialiser wrote for certain.

        Nearly all chunks of nearly all kernels are such.

        :return: The link, or ``None`` if the pages are to be looked at one by one.
        """
        if self._link_mask is None or any(start < high and low < end for low, high, _ in self._deferred):
            return None
        layout = self._layout
        flags = common.all_bits(layout.flags_offset)
        if (common.any_bits(layout.flags_offset) ^ flags) & self._link_mask:
            return None
        link = (flags & self._link_mask) >> self._link_shift
        # Each of these may hide entries that no initialiser wrote: an impossible link stale data, a link with all
        # bits set poison, a link of 0 zeros.
        if self._invalid_link[link] or link == self._link_mask >> self._link_shift:
            return None
        if link == 0 and not common.all_bits(layout.mapcount_offset):
            first, other = (o // self._word.itemsize for o in (layout.flags_offset, layout.mapcount_offset))
            if not (words[:, first] | words[:, other]).all():
                return None
        return link

    def _uniform_chunk(
        self, start: int, words: npt.NDArray[np.unsignedinteger], common: Digest, link: int, section: Section
    ) -> Chunk:
        """Make a chunk of initialised pages with one link. Its columns are shared with others like it."""
        size = len(words)
        links = self._link_columns.get(link)
        if links is None or len(links) < size:
            links = self._link_columns[link] = _constant(link, np.uint32, size)
        if len(self._initialized) < size:
            self._initialized = _constant(INITIALIZED, np.uint8, size)
        flags = words[:, self._layout.flags_offset // self._word.itemsize]
        chunk = Chunk(start, flags, links[:size], self._initialized[:size], section, words)
        chunk.set_runs([Run(start, start + size, link, INITIALIZED)])
        chunk.set_digest(common)
        return chunk

    def entry(self, pfn: int, section: Section) -> bytes:
        """
        Read one struct page.

        :raises drgn.FaultError: if the target doesn't hold it.
        """
        size = self._layout.page_struct_size
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
        if any(word in str(error) for word in _DAMAGED):
            return DAMAGED
        return NOT_EXPORTED if self._live else UNMAPPED

    def _links(self, flags: npt.NDArray[np.unsignedinteger]) -> Links:
        kind = flags.dtype.type
        if self._link_mask is None:
            layout = self._layout.flags
            zone = (flags >> kind(layout.zone.shift)) & kind(layout.zone.mask)
            nr = (flags >> kind(layout.section.shift)) & kind(layout.section.mask)
            assert self._section_nodes is not None
            nodes = self._section_nodes[nr.astype(np.intp)].astype(np.uint32)
            link: Links = nodes << np.uint32(layout.zone.width) | zone.astype(np.uint32)
            return link
        fields: Links = ((flags & kind(self._link_mask)) >> kind(self._link_shift)).astype(np.uint32)
        return fields

    def _states(
        self,
        words: npt.NDArray[np.unsignedinteger],
        flags: npt.NDArray[np.unsignedinteger],
        link: Links,
        start: int,
        end: int,
    ) -> States:
        """Tell which entries no initialiser wrote."""
        layout = self._layout
        state = np.full(len(flags), INITIALIZED, np.uint8)
        zero = np.flatnonzero(flags == 0)
        if len(zero):
            # __init_single_page() leaves -1 in _mapcount, and no other use of an initialised page zeroes
            # all of the entry. flags alone may be 0 in a zone 0 of node 0.
            mapcount = words[zero, layout.mapcount_offset // self._word.itemsize]
            zero = zero[mapcount == 0]
            state[zero[~words[zero].any(axis=1)]] = ZEROED
        # PAGE_POISON_PATTERN is -1, and PagePoisoned() compares flags only.
        state[flags == np.iinfo(flags.dtype).max] = POISONED
        invalid = np.flatnonzero(self._invalid_link[link] & (state == INITIALIZED))
        if len(invalid):
            refcounts = words.view(np.uint8)[invalid, layout.refcount_offset : layout.refcount_offset + 4]
            order = "<" if layout.byteorder == "little" else ">"
            counts = np.ascontiguousarray(refcounts).view(f"{order}i4")[:, 0]
            state[invalid[(counts < 0) | (counts > MAX_REFCOUNT)]] = STALE
        for first_deferred_pfn, node_end, nid in self._deferred:
            # Deferred initialisation runs from here to the end of the node. Struct pages there are as they
            # were allocated: poisoned, or with whatever was in that memory. Only reserved pages were
            # initialised early; they link to a zone of the node that spans them.
            low, high = max(start, first_deferred_pfn), min(end, node_end)
            if low < high:
                part = slice(low - start, high - start)
                state[part][~self._in_zone_of(nid, link[part], low)] = DEFERRED
        return state

    def _in_zone_of(self, nid: int, link: Links, start: int) -> npt.NDArray[np.bool_]:
        """Tell which pages link to a zone of the node that spans them."""
        result = np.zeros(len(link), np.bool_)
        for zone in self._memory.populated_zones:
            low, high = max(zone.start_pfn - start, 0), max(zone.end_pfn - start, 0)
            if zone.node == nid:
                part = slice(low, high)
                result[part] |= link[part] == self._layout.link(nid, zone.index)
        return result


def _link_bits(layout: Layout) -> tuple[int, int | None]:
    """
    Get where ``page->flags`` has node and zone.

    :return: (lowest bit, mask in place); the mask is ``None`` if the node is not in it.
    """
    flags = layout.flags
    if flags.node_not_in_page_flags:
        return 0, None
    # The node is right above the zone.
    width = flags.node.width + flags.zone.width
    shift = flags.zone.shift if flags.zone.width else flags.node.shift
    return (shift, ((1 << width) - 1) << shift) if width else (0, 0)


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


def _invalid_links(memory: MemoryMap) -> npt.NDArray[np.bool_]:
    """Get a table by link: whether there is no such zone."""
    layout = memory.layout
    table = np.ones(1 << (layout.flags.nodes_shift + layout.flags.zone.width), np.bool_)
    if layout.flags.node_not_in_page_flags:
        # The table of nodes has bytes or words of any value.
        table = np.ones(1 << (16 + layout.flags.zone.width), np.bool_)
    for zone in memory.zones:
        table[layout.link(zone.node, zone.index)] = False
    return table


def _section_to_node_table(prog: Program, layout: Layout) -> npt.NDArray[np.unsignedinteger] | None:
    """Read the nodes by section where ``page->flags`` has no room for the node."""
    if not layout.flags.node_not_in_page_flags:
        return None
    try:
        table = prog["section_to_node_table"]
        size = sizeof(table.type_.type)
        order = "<" if layout.byteorder == "little" else ">"
        assert table.address_ is not None
        return np.frombuffer(prog.read(table.address_, sizeof(table)), f"{order}u{size}")
    except LookupError:
        raise LayoutError("section_to_node_table is missing; give a System.map with --system-map") from None
    except FaultError as e:
        raise LayoutError(f"section_to_node_table can't be read: {e}") from None
