# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Follows per-CPU lists as long as nothing is wrong with their pages.

A busy machine of many CPUs has a million pages on such lists, all over the memmap, so that little may be done with
each.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from drgn import FaultError, Program

from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.memorymap.structpages import StructPages
from mminspect.memorymap.zones import Zone
from mminspect.program.direct import DirectMemory

# Memory whose place in a vmcore is looked up at once: 2 MiB, which page tables map in one piece.
PIECE_SHIFT = 21
PIECE = 1 << PIECE_SHIFT
PIECE_MASK = PIECE - 1
# Struct pages that are compared at once.
AT_ONCE = 1 << 12

_UNREAD = (FaultError, OSError, struct.error)


class PlainPages:
    """
    Tells which struct pages are those of free pages that a list of a zone may hold.

    :param direct: Reads a vmcore faster than drgn does, where that can be done.
    """

    def __init__(self, prog: Program, memory: MemoryMap, direct: DirectMemory | None = None) -> None:
        self._prog = prog
        self._memory = memory
        self._struct_pages = StructPages(memory)
        self._direct = direct
        layout = self._layout = memory.layout
        page = layout.page
        word = layout.word.itemsize
        letter = "Q" if word == 8 else "I"
        self._words = struct.Struct(f"{layout.order}{page.size // word}{letter}")
        self._refcount = half_word(layout, page.refcount_offset)
        self._mapcount = half_word(layout, page.mapcount_offset)
        self._places: dict[int, int | None] = {}

    def follow(self, zone: Zone, head: int, first: int, limit: int) -> tuple[list[int], int, int]:
        """
        Follow a list up to a page that isn't plain, or isn't linked to the one before it.

        As each page links back to where it was reached from, none can come twice.

        :param head: Address of the list's head.
        :param first: What follows it.
        :param limit: So many pages at most.
        :return: Pfns, the address of the entry that was reached, and what follows it.
        """
        layout = self._layout
        page = layout.page
        size, lru, unpack, word = page.size, page.lru_offset, self._words.unpack, layout.word.itemsize
        flags_at, next_at = page.flags_offset // word, lru // word
        prev_at = next_at + 1
        mask, wanted = _link_bits(layout, zone)
        refcount_at, refcount_mask, _ = self._refcount
        mapcount_at, mapcount_mask, mapcount_shift = self._mapcount
        buddy = -1 if page.buddy is None else page.buddy << mapcount_shift
        # Without calls in between, as these would take longer than all the rest.
        places, pread, fd = self._places, os.pread, -1 if self._direct is None else self._direct.fileno()
        last = PIECE - size
        pfns: list[int] = []
        here, following = head, first
        low = high = start = 0
        while following != head and len(pfns) < limit:
            address = following - lru
            if not low <= address < high:
                found = self._struct_pages.around(address)
                if found is None:
                    break
                low, start, end = found
                high = low + (end - start) * size
                if address >= high:
                    break
            number, offset = divmod(address - low, size)
            if offset:
                break
            try:
                place = places.get(address >> PIECE_SHIFT)
                offset = address & PIECE_MASK
                if place is None or offset > last:
                    words = unpack(self.read(address, size))
                else:
                    words = unpack(pread(fd, size, place + offset))
            except _UNREAD:
                break
            if (
                words[prev_at] != here
                or words[flags_at] & mask != wanted
                or words[refcount_at] & refcount_mask
                or words[mapcount_at] & mapcount_mask == buddy
            ):
                break
            pfns.append(start + number)
            here, following = following, words[next_at]
        return pfns, here, following

    def are_plain_behind(self, zone: Zone, pfns: Sequence[int], order: int) -> bool:
        """Tell whether all pages behind the first ones of blocks have the same zone, and no references."""
        count = (1 << order) - 1
        step = max(1, AT_ONCE >> order)
        try:
            return all(
                self._are_plain(zone, b"".join(self._behind(pfns[at : at + step], count)))
                for at in range(0, len(pfns), step)
            )
        except _UNREAD:
            return False

    def _behind(self, pfns: Sequence[int], count: int) -> Iterator[bytes]:
        """Read the struct pages behind some."""
        size = self._layout.page.size
        for pfn in pfns:
            section = self._memory.section(pfn)
            if section is not None:
                yield self.read(pfn_to_page(self._layout, section, pfn + 1), count * size)

    def _are_plain(self, zone: Zone, data: bytes) -> bool:
        layout = self._layout
        words = np.frombuffer(data, layout.word).reshape(-1, layout.page.size // layout.word.itemsize)
        mask, wanted = _link_bits(layout, zone)
        at, bits, _ = self._refcount
        kind = layout.word.type
        links = words[:, layout.page.flags_offset // layout.word.itemsize] & kind(mask)
        return not bool((links != kind(wanted)).any() or (words[:, at] & kind(bits)).any())

    def read(self, address: int, size: int) -> bytes:
        """
        Read memory.

        :raises drgn.FaultError: if the target doesn't hold it.
        """
        if self._direct is not None:
            piece, offset = address >> PIECE_SHIFT, address & PIECE_MASK
            if piece not in self._places:
                self._places[piece] = self._direct.place(piece << PIECE_SHIFT, PIECE)
            place = self._places[piece]
            if place is not None and offset + size <= PIECE:
                found = os.pread(self._direct.fileno(), size, place + offset)
                # A file that is cut while it is read is left to drgn, which says so.
                if len(found) == size:
                    return found
        data: bytes = self._prog.read(address, size)
        return data


def _link_bits(layout: Layout, zone: Zone) -> tuple[int, int]:
    """Return a mask of what ``page->flags`` has of node and zone, and what pages of a zone have there."""
    zones, nodes = layout.flags.zone, layout.flags.node
    mask, wanted = zones.mask << zones.shift, zone.index << zones.shift
    if not layout.flags.node_not_in_page_flags:
        mask |= nodes.mask << nodes.shift
        wanted |= zone.node << nodes.shift
    return mask, wanted


def half_word(layout: Layout, offset: int) -> tuple[int, int, int]:
    """Return where 32 bits are among the words of a struct page: (index, mask, shift)."""
    word = layout.word.itemsize
    byte = offset % word
    shift = 8 * (byte if layout.byteorder == "little" else word - 4 - byte)
    return offset // word, 0xFFFFFFFF << shift, shift
