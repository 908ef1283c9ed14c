# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The memory of an ELF dump without a copy: its file, mapped.

drgn copies what it reads. Where the dump's own headers say which part of the file holds a virtual address, as in every
capture, or the kernel's page tables do, the copy can be left out, which takes as long as all the checks together.
"""

import mmap
import os
from bisect import bisect_right
from typing import Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program

from mminspect.target.corefile import Segment
from mminspect.target.overlay import NO_PADDR
from mminspect.target.pagetable import PageTables

# Bytes at each end that are compared with what drgn reads.
_COMPARED = 64
# The vmemmap is mapped by pages of this size, or larger ones.
_LARGE_PAGE = 1 << 21


class _Index:
    """
    Finds segments by address.

    :param ranges: (first address, segment) that don't overlap.
    """

    def __init__(self, ranges: Iterable[Tuple[int, Segment]]) -> None:
        self._ranges = sorted(ranges, key=lambda pair: pair[0])
        self._starts = [start for start, _ in self._ranges]

    def find(self, address: int, size: int) -> Optional[int]:
        """Get where in the file a range is, ``None`` if not all of it is in one segment."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, segment = self._ranges[index]
        return segment.offset + address - start if address + size <= start + segment.filesz else None


def _separate(segments: Iterable[Segment]) -> Iterator[Tuple[int, Segment]]:
    """Get the segments at virtual addresses that overlap no other. Which one drgn reads is its business."""
    # Without virtual addresses, QEMU writes zero or the physical address.
    known = sorted((s for s in segments if s.vaddr and s.vaddr != s.paddr), key=lambda s: s.vaddr)
    end = 0
    for index, segment in enumerate(known):
        last = segment.vaddr + max(segment.memsz, segment.filesz)
        if segment.vaddr >= end and (index + 1 == len(known) or last <= known[index + 1].vaddr):
            yield segment.vaddr, segment
        end = max(end, last)


def _largest(segments: Iterable[Segment]) -> Iterator[Tuple[int, Segment]]:
    """Get the segments at physical addresses without those inside others: the kernel's image is in its RAM again."""
    end = 0
    for segment in sorted((s for s in segments if s.paddr not in NO_PADDR), key=lambda s: (s.paddr, -s.filesz)):
        if segment.paddr >= end:
            yield segment.paddr, segment
            end = segment.paddr + segment.filesz


class MappedFile:
    """
    Maps parts of an ELF dump.

    :param prog: The program that has the dump open. What is laid over its memory must be in the dump's headers.
    :param fd: The dump; kept open through a descriptor of its own.
    :param segments: Its segments.
    :param tables: The kernel's page tables, for addresses that no segment has.
    """

    def __init__(
        self, prog: Program, fd: int, segments: Sequence[Segment], tables: Optional[PageTables] = None
    ) -> None:
        self._prog = prog
        self._virtual = _Index(_separate(segments))
        self._physical = _Index(_largest(segments))
        self._tables = tables
        self._file = open(os.dup(fd), "rb", buffering=0)  # noqa: SIM115
        self._size = os.fstat(fd).st_size

    def is_whole(self) -> bool:
        """Tell whether the file is still as long as it was when it was opened."""
        return os.fstat(self._file.fileno()).st_size >= self._size

    def holds(self, address: int) -> bool:
        """Tell whether a byte can be mapped."""
        return self._offset(address, 1) is not None

    def _offset(self, address: int, size: int) -> Optional[int]:
        """Get where in the file memory is, ``None`` if it isn't all there in one piece."""
        offset = self._virtual.find(address, size)
        if offset is not None or self._tables is None:
            return offset
        try:
            start, done = self._tables.translate(address)
            while done < size:
                following, more = self._tables.translate(address + done)
                # Memory that is mapped by small pages is as well read by drgn.
                if following != start + done or more < _LARGE_PAGE:
                    return None
                done += more
        except FaultError:
            return None
        return self._physical.find(start, size)

    def read(self, address: int, size: int) -> Optional[npt.NDArray[np.uint8]]:
        """
        Map memory.

        :param address: Virtual address.
        :param size: In bytes.
        :return: The bytes; the mapping goes with them. ``None`` if drgn must read them. What the file loses later, or
            its disk can't read, is SIGBUS at the first access; see :func:`mminspect.signals.quit_on_bus_error`.
        """
        offset = self._offset(address, size) if size >= 2 * _COMPARED else None
        if offset is None:
            return None
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            if not self.is_whole():
                return None
            mapping = mmap.mmap(
                self._file.fileno(), offset + size - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=start
            )
        except (OSError, ValueError):
            return None
        data = np.frombuffer(mapping, np.uint8)[offset - start :]
        try:
            first = self._prog.read(address, _COMPARED)
            last = self._prog.read(address + size - _COMPARED, _COMPARED)
        except FaultError:
            return None
        return data if data[:_COMPARED].tobytes() == first and data[-_COMPARED:].tobytes() == last else None
