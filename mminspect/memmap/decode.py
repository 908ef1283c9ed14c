# SPDX-License-Identifier: LGPL-2.1-or-later
"""Struct pages to links and states. Pure: words in, columns out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mminspect.errors import LayoutError
from mminspect.memmap.chunk import (
    DEFERRED,
    INITIALIZED,
    POISONED,
    STALE,
    ZEROED,
    Links,
    States,
)
from mminspect.memmap.digest import Digest
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap

Table = npt.NDArray[np.unsignedinteger]

# A reference count beyond this in an entry whose link can't be is no count but stale data.
MAX_REFCOUNT = 1 << 24


class Decoder:
    """
    Decodes the struct pages of a kernel.

    :param memory: Its layout, nodes and zones.
    :raises LayoutError: if the kernel has the nodes in a table, and the table is missing.
    """

    def __init__(self, memory: MemoryMap) -> None:
        layout = memory.layout
        if layout.flags.node_not_in_page_flags and memory.section_to_node_table is None:
            raise LayoutError("section_to_node_table is missing; give a System.map with --system-map")
        self._memory = memory
        self._layout = layout
        self._invalid_link = _invalid_links(memory)
        self._link_shift, self._link_mask = _link_bits(layout)
        # Struct pages from here on must be examined one by one; see states().
        self._deferred = [
            (node.first_deferred_pfn, node.start_pfn + node.spanned, node.nid)
            for node in memory.nodes
            if node.first_deferred_pfn is not None
        ]

    def flags(self, words: Table) -> Table:
        """Return ``page->flags`` of struct pages, in the kernel's byte order."""
        column: Table = words[:, self._layout.page.flags_offset // words.itemsize]
        return column

    def links(self, flags: Table) -> Links:
        """Return the links (:meth:`Layout.link`) in flags of native byte order."""
        kind = flags.dtype.type
        if self._link_mask is None:
            layout = self._layout.flags
            zone = (flags >> kind(layout.zone.shift)) & kind(layout.zone.mask)
            nr = (flags >> kind(layout.section.shift)) & kind(layout.section.mask)
            assert self._memory.section_to_node_table is not None
            nodes = self._memory.section_to_node_table[nr.astype(np.intp)].astype(np.uint32)
            link: Links = nodes << np.uint32(layout.zone.width) | zone.astype(np.uint32)
            return link
        fields: Links = ((flags & kind(self._link_mask)) >> kind(self._link_shift)).astype(np.uint32)
        return fields

    def states(self, words: Table, flags: Table, link: Links, start: int) -> States:
        """
        Return which entries no initializer wrote, and how that shows.

        :param words: Struct pages, shape (pages, words of one).
        :param flags: Their flags, in native byte order.
        :param link: Their links.
        :param start: First pfn.
        """
        page = self._layout.page
        state = np.full(len(flags), INITIALIZED, np.uint8)
        zero = np.flatnonzero(flags == 0)
        if len(zero):
            # __init_single_page() leaves -1 in _mapcount, and no other use of an initialized page zeroes
            # all of the entry. flags alone may be 0 in a zone 0 of node 0.
            mapcount = words[zero, page.mapcount_offset // words.itemsize]
            zero = zero[mapcount == 0]
            state[zero[~words[zero].any(axis=1)]] = ZEROED
        # PAGE_POISON_PATTERN is -1, and PagePoisoned() compares flags only.
        state[flags == np.iinfo(flags.dtype).max] = POISONED
        invalid = np.flatnonzero(self._invalid_link[link] & (state == INITIALIZED))
        if len(invalid):
            refcounts = words.view(np.uint8)[invalid, page.refcount_offset : page.refcount_offset + 4]
            counts = np.ascontiguousarray(refcounts).view(f"{self._layout.order}i4")[:, 0]
            state[invalid[(counts < 0) | (counts > MAX_REFCOUNT)]] = STALE
        for first_deferred_pfn, node_end, nid in self._deferred:
            # Deferred initialization runs from here to the end of the node. Struct pages there are as they
            # were allocated: poisoned, or with whatever was in that memory. Only reserved pages were
            # initialized early; they link to a zone of the node that spans them.
            low, high = max(start, first_deferred_pfn), min(start + len(flags), node_end)
            if low < high:
                part = slice(low - start, high - start)
                state[part][~self._in_zone_of(nid, link[part], low)] = DEFERRED
        return state

    def _in_zone_of(self, nid: int, link: Links, start: int) -> npt.NDArray[np.bool_]:
        """Return which pages link to a zone of the node that spans them."""
        result = np.zeros(len(link), np.bool_)
        for zone in self._memory.populated_zones:
            low, high = max(zone.start_pfn - start, 0), max(zone.end_pfn - start, 0)
            if zone.node == nid:
                part = slice(low, high)
                result[part] |= link[part] == self._layout.link(nid, zone.index)
        return result

    def only_link(self, words: Table, common: Digest, start: int) -> int | None:
        """
        Return the link of pages that all have the same, and that an initializer wrote for certain.

        This is true of almost every chunk of almost every kernel.

        :param words: Struct pages, shape (pages, words of one).
        :param common: Their digest.
        :param start: First pfn.
        :return: ``None`` if the pages must be examined one by one.
        """
        end = start + len(words)
        if self._link_mask is None or any(start < high and low < end for low, high, _ in self._deferred):
            return None
        page = self._layout.page
        flags = common.all_bits(page.flags_offset)
        if (common.any_bits(page.flags_offset) ^ flags) & self._link_mask:
            return None
        link = (flags & self._link_mask) >> self._link_shift
        # Each of these may hide entries that no initializer wrote: an impossible link stale data, a link with all
        # bits set poison, a link of 0 zeros.
        if self._invalid_link[link] or link == self._link_mask >> self._link_shift:
            return None
        if link == 0 and not common.all_bits(page.mapcount_offset):
            first, other = (offset // words.itemsize for offset in (page.flags_offset, page.mapcount_offset))
            if not (words[:, first] | words[:, other]).all():
                return None
        return link


def _link_bits(layout: Layout) -> tuple[int, int | None]:
    """
    Return where ``page->flags`` has node and zone.

    :return: (lowest bit, mask in place); the mask is ``None`` if the node is not in it.
    """
    flags = layout.flags
    if flags.node_not_in_page_flags:
        return 0, None
    # The node is right above the zone.
    width = flags.node.width + flags.zone.width
    shift = flags.zone.shift if flags.zone.width else flags.node.shift
    return (shift, ((1 << width) - 1) << shift) if width else (0, 0)


def _invalid_links(memory: MemoryMap) -> npt.NDArray[np.bool_]:
    """Return a table by link: whether there is no such zone."""
    layout = memory.layout
    table = np.ones(1 << (layout.flags.nodes_shift + layout.flags.zone.width), np.bool_)
    if layout.flags.node_not_in_page_flags:
        # The table of nodes has bytes or words of any value.
        table = np.ones(1 << (16 + layout.flags.zone.width), np.bool_)
    for zone in memory.zones:
        table[layout.link(zone.node, zone.index)] = False
    return table
