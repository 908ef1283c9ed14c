# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pages of one pageblock as the walkers of every zone that spans it meet them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.consequences.guards import Guards
from mminspect.consequences.place import with_walkers
from mminspect.memmap.chunk import INITIALIZED, OFFLINE, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range
from mminspect.memorymap.zones import Zone

Mask = npt.NDArray[np.bool_]


class Block(NamedTuple):
    """
    A pageblock.

    :ivar start: Its first pfn.
    :ivar link: Of each page; nothing where ``free`` is false.
    :ivar free: Whether each page can be in the allocator, now or later.
    """

    memory: MemoryMap
    start: int
    link: npt.NDArray[np.uint32]
    free: Mask

    @property
    def end(self) -> int:
        """Pfn behind the last."""
        return self.start + len(self.link)

    def _own(self, zone: Zone) -> Mask:
        result: Mask = self.link == np.uint32(self.memory.layout.link(zone.node, zone.index))
        return result & self.free

    def _spanned(self, zone: Zone) -> Mask:
        pfns = np.arange(self.start, self.end)
        result: Mask = (pfns >= zone.start_pfn) & (pfns < zone.end_pfn)
        return result

    def entry(self, zone: Zone) -> int | None:
        """Get the first page of a zone from which it can take the block's other pages."""
        own = np.flatnonzero(self._own(zone))
        return self.start + int(own[0]) if len(own) else None

    def enters(self, zone: Zone, pfn: int, guards: Guards) -> bool:
        """Tell whether ``move_freepages_block()`` of a zone gets to a page, if it accepts the block."""
        entry = self.entry(zone)
        if entry is None:
            return False
        return guards.moves_whole_blocks or zone.spans(self.start) or entry < pfn

    def strangers(self, guards: Guards) -> Iterator[int]:
        """
        Find pages that show best what the zones that span the block do with each other's pages.

        :return: Iterator of one pfn for each zone that spans pages of another zone that can be free: one that it gets
            to, if there is one.
        """
        for zone in with_walkers(self.memory.zones_spanning(self.start, self.end)):
            foreign = np.flatnonzero(self.free & ~self._own(zone) & self._spanned(zone)) + self.start
            if len(foreign):
                # If it doesn't get to the last one, it gets to none.
                entry = self.entry(zone) if self.enters(zone, int(foreign[-1]), guards) else None
                behind = foreign if entry is None or self.enters(zone, self.start, guards) else foreign[foreign > entry]
                yield int(behind[0])


def read_block(memory: MemoryMap, start: int, chunks: Sequence[Chunk], ram: Sequence[Range] | None) -> Block:
    """
    Find out which pages of a pageblock can be free.

    PG_reserved alone doesn't keep a page out of the allocator: init memory, the initrd, the crash kernel, EFI boot
    services and what is initialized late are freed without further ado. That it isn't System RAM does.

    :param start: The block's first pfn.
    :param chunks: Its online pages.
    :param ram: What ``/proc/iomem`` calls System RAM, ``None`` if that isn't known.
    """
    count = memory.layout.pageblock_nr_pages
    link = np.zeros(count, np.uint32)
    state = np.full(count, OFFLINE, np.uint8)
    reserved = np.zeros(count, np.bool_)
    for chunk in chunks:
        part = slice(chunk.start_pfn - start, chunk.end_pfn - start)
        link[part], state[part] = chunk.link, chunk.state
        reserved[part] = chunk.reserved(chunk.start_pfn, chunk.end_pfn)
    in_ram = np.ones(count, np.bool_)
    if ram is not None:
        in_ram[:] = False
        for low, high in ram:
            in_ram[max(low - start, 0) : max(high - start, 0)] = True
    return Block(memory, start, link, (state == INITIALIZED) & (~reserved | in_ram))
