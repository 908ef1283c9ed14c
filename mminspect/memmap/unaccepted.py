# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Memory that a confidential guest has not accepted yet (``zone->unaccepted_pages``).

Since Linux kernel commit dcdfdd40fa82 ("mm: Add support for unaccepted memory") (in v6.5), each zone has a list of such
blocks, which are as large as the allocator's largest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from drgn import FaultError

from mminspect.memmap.page import Page, decode_page, flags_link
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.percpu import ListFault
from mminspect.memorymap.structpages import StructPages
from mminspect.memorymap.unaccepted import UnacceptedList
from mminspect.memorymap.zones import Zone
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator

# Blocks that are followed in all lists together: 4 TiB of 4 MiB each. And wrong ones after which a list is left.
MAX_FOLLOWED = 1 << 20
MAX_FAULTS = 64
# No CPU keeps more of a zone's counts for itself.
MAX_STAT_THRESHOLD = 125

_ERRORS = (FaultError, LookupError, AttributeError, TypeError, ValueError, struct.error)


def with_unaccepted(target: Target, memory: MemoryMap) -> MemoryMap:
    """
    Read the lists of unaccepted memory.

    :return: The memory map with those that can be read.
    """
    type_ = target.prog.type("struct zone")
    if not type_.has_member("unaccepted_pages"):
        return memory
    reader = _Reader(target, memory, type_.member("unaccepted_pages").offset)
    return replace(memory, unaccepted=tuple(reader.read()))


class _Reader:
    def __init__(self, target: Target, memory: MemoryMap, offset: int) -> None:
        self._prog = target.prog
        self._memory = memory
        self._layout = memory.layout
        self._offset = offset
        self._struct_pages = StructPages(memory)
        self._left = MAX_FOLLOWED
        word = memory.layout.word.itemsize
        self._two_words = struct.Struct(memory.layout.order + ("QQ" if word == 8 else "II"))
        # Since Linux 6.12, such pages have a type.
        self._type = next((item for item in memory.layout.page.types if item[0] == "unaccepted"), None)

    def read(self) -> Iterator[UnacceptedList]:
        """Follow the list of each zone."""
        for zone in self._memory.populated_zones:
            try:
                found = self._follow(zone, zone.address + self._offset)
                stated = self._stated(zone)
            except _ERRORS:
                continue
            if found is not None and (found[0] or found[1] or stated):
                locked = zone.state.locked if zone.state is not None else True
                pfns, faults, complete = found
                yield UnacceptedList(
                    zone.node, zone.index, np.array(pfns, np.uint64), tuple(faults), complete, stated, locked
                )

    def _stated(self, zone: Zone) -> int | None:
        """
        Get what the kernel counts: ``NR_UNACCEPTED``, in pages.

        It changes by so many pages at once that none of it is left in a CPU's own part.
        """
        item = enumerator(self._prog, "enum zone_stat_item", "NR_UNACCEPTED")
        member = self._prog.type("struct zone").member("vm_stat")
        if item is None or 1 << self._layout.max_order <= MAX_STAT_THRESHOLD:
            return None
        word = self._layout.word.itemsize
        value = self._prog.read_word(zone.address + member.offset + item * word)
        return int(value) - (1 << self._layout.word_bits if value >> (self._layout.word_bits - 1) else 0)

    def _follow(self, zone: Zone, head: int) -> tuple[list[int], list[ListFault], bool] | None:
        """
        Follow a list.

        :return: Its pfns, what is wrong, and whether the end was reached; ``None`` before the list was made.
        """
        lru, size = self._layout.page.lru_offset, self._layout.page.size
        first, first_back = self._two_words.unpack(self._prog.read(head, self._two_words.size))
        if not first and not first_back:
            return None
        pfns: list[int] = []
        faults: list[ListFault] = []
        seen: set[int] = set()
        here, following, last = head, first, None
        while following != head:
            found = self._struct_pages.find(following - lru)
            if found is None or found.offset:
                return pfns, [*faults, ListFault("link", last, following)], False
            pfn = found.pfn
            if pfn in seen:
                return pfns, [*faults, ListFault("cycle", last, pfn)], False
            if not self._left or len(faults) >= MAX_FAULTS:
                return pfns, faults, False
            self._left -= 1
            try:
                data = self._prog.read(following - lru, size)
            except FaultError:
                return pfns, faults, False
            page = decode_page(self._layout, pfn, data, 0)
            if page.buddy:
                # Its links are those of a free list.
                return pfns, [*faults, ListFault("free", pfn, page.mapcount)], False
            if page.lru_prev != here:
                faults.append(ListFault("prev", pfn, page.lru_prev))
            faults.extend(self._wrong(zone, page))
            pfns.append(pfn)
            seen.add(pfn)
            here, following, last = following, page.lru_next, pfn
        if first_back != here:
            faults.append(ListFault("prev", None, first_back))
        return pfns, faults, True

    def _wrong(self, zone: Zone, page: Page) -> Iterator[ListFault]:
        """Find out why a page can't be on the list of a zone."""
        if page.refcount:
            yield ListFault("references", page.pfn, page.refcount)
        if page.pfn & ((1 << self._layout.max_order) - 1):
            yield ListFault("order", page.pfn, self._layout.max_order)
        link = flags_link(self._layout, page.flags, zone.node)
        if link != self._layout.link(zone.node, zone.index):
            yield ListFault("zone", page.pfn, link)
        if self._type is not None:
            _, mask, value = self._type
            mapcount = page.mapcount & 0xFFFFFFFF
            if mapcount & mask != value:
                yield ListFault("type", page.pfn, mapcount)
