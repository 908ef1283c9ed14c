# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The memory of an ELF dump without a copy: its file, mapped.

The dump's own headers say which part of the file holds a virtual address, as in every capture, or the kernel's page
tables do.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from drgn import Program

from mminspect.program.direct import Bytes, DirectMemory
from mminspect.program.elf import Segment
from mminspect.program.overlay import NO_PADDR
from mminspect.program.pagetable import PageTables


class _Index:
    """
    Finds segments by address.

    :param ranges: (first address, segment) that don't overlap.
    """

    def __init__(self, ranges: Iterable[tuple[int, Segment]]) -> None:
        self._ranges = sorted(ranges, key=lambda pair: pair[0])
        self._starts = [start for start, _ in self._ranges]

    def find(self, address: int, size: int) -> int | None:
        """Get where in the file a range is, ``None`` if not all of it is in one segment."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, segment = self._ranges[index]
        return segment.offset + address - start if address + size <= start + segment.filesz else None


def _separate(segments: Iterable[Segment]) -> Iterator[tuple[int, Segment]]:
    """Get the segments at virtual addresses that overlap no other. If some overlap, drgn decides which one it reads."""
    # Without virtual addresses, QEMU writes zero or the physical address.
    known = sorted((s for s in segments if s.vaddr and s.vaddr != s.paddr), key=lambda s: s.vaddr)
    end = 0
    for index, segment in enumerate(known):
        last = segment.vaddr + max(segment.memsz, segment.filesz)
        if segment.vaddr >= end and (index + 1 == len(known) or last <= known[index + 1].vaddr):
            yield segment.vaddr, segment
        end = max(end, last)


def _largest(segments: Iterable[Segment]) -> Iterator[tuple[int, Segment]]:
    """Get the segments at physical addresses without those inside others: the kernel's image is in its RAM again."""
    end = 0
    for segment in sorted((s for s in segments if s.paddr not in NO_PADDR), key=lambda s: (s.paddr, -s.filesz)):
        if segment.paddr >= end:
            yield segment.paddr, segment
            end = segment.paddr + segment.filesz


class MappedFile(DirectMemory):
    """
    Maps parts of an ELF dump.

    A mapping goes with the array that :meth:`read` returns. What the file loses later, or its disk can't read, is
    SIGBUS at the first access; see :func:`mminspect.signals.quit_on_bus_error`.

    :param prog: As for :class:`~mminspect.program.direct.DirectMemory`, and so is ``fd``.
    :param segments: Its segments.
    :param tables: The kernel's page tables, for addresses that no segment has.
    """

    at_once = 32 << 20

    def __init__(self, prog: Program, fd: int, segments: Sequence[Segment], tables: PageTables | None = None) -> None:
        super().__init__(prog, fd)
        self._virtual = _Index(_separate(segments))
        self._physical = _Index(_largest(segments))
        self._tables = tables

    def holds(self, address: int) -> bool:
        """Tell whether a byte can be mapped."""
        return self._offset(address, 1) is not None

    def _offset(self, address: int, size: int) -> int | None:
        """Get where in the file memory is, ``None`` if it isn't all there in one piece."""
        offset = self._virtual.find(address, size)
        if offset is not None or self._tables is None:
            return offset
        runs = self._tables.large_runs(address, size)
        return self._physical.find(*runs[0]) if runs is not None and len(runs) == 1 else None

    def _data(self, address: int, size: int) -> Bytes | None:
        offset = self._offset(address, size)
        if offset is None:
            return None
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            mapping = mmap.mmap(
                self._file.fileno(), offset + size - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=start
            )
        except (OSError, ValueError):
            return None
        return np.frombuffer(mapping, np.uint8)[offset - start :]
