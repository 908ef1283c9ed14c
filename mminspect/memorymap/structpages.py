# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where struct pages are: sections with one memmap, and from an address to a pfn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.memorymap.sections import Section


def stretches(memory: MemoryMap) -> Iterator[Section]:
    """
    Join adjacent sections that are online as a whole, have a pageblock bitmap each, and one memmap together. Those with
    absent subsections stay alone.

    With SPARSEMEM_VMEMMAP, nearly all sections of nearly all machines are such.

    :return: Iterator of sections; one that stands for several has the number of the first.
    """
    # Without VMEMMAP each section has a memmap of its own, and its number is in page->flags.
    joinable = not memory.layout.flags.section.width
    first: Section | None = None
    end = 0
    for section in memory.sections:
        whole = joinable and bool(section.bitmap) and len(section.ranges) == 1 and not section.absent
        if first is not None:
            if whole and section.ranges[0][0] == end and section.mem_map == first.mem_map:
                end = section.ranges[0][1]
                continue
            yield first._replace(ranges=((first.ranges[0][0], end),))
            first = None
        if whole:
            first, end = section, section.ranges[0][1]
        else:
            yield section
    if first is not None:
        yield first._replace(ranges=((first.ranges[0][0], end),))


class Found(NamedTuple):
    """
    What an address in a memmap belongs to.

    :ivar offset: Bytes from the start of its struct page.
    :ivar first: First pfn of the online range that it is in.
    """

    pfn: int
    offset: int
    first: int


class StructPages:
    """
    Finds the struct pages of online memory by address.

    :param memory: The kernel's memory map.
    """

    def __init__(self, memory: MemoryMap) -> None:
        layout = memory.layout
        self._size = layout.page.size
        self._ranges = sorted(
            (pfn_to_page(layout, section, start), start, end)
            for section in stretches(memory)
            for start, end in section.ranges
        )
        self._bases = [base for base, _, _ in self._ranges]

    def around(self, address: int) -> tuple[int, int, int] | None:
        """
        Find the last online range whose struct pages begin at or below an address.

        :return: (address of its first struct page, first pfn, pfn behind the last).
        """
        index = bisect_right(self._bases, address) - 1
        return None if index < 0 else self._ranges[index]

    def find(self, address: int) -> Found | None:
        """Find what an address is in, ``None`` if that is no struct page."""
        around = self.around(address)
        if around is None:
            return None
        base, start, end = around
        number, offset = divmod(address - base, self._size)
        return Found(start + number, offset, start) if start + number < end else None
