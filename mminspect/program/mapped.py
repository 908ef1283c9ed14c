# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The memory of an ELF dump without a copy: its file, mapped.

The dump's own headers say which part of the file holds a virtual address, as in every capture, or the kernel's page
tables do.
"""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from drgn import Program

from mminspect.program.direct import Bytes, DirectMemory
from mminspect.program.elf import Segment
from mminspect.program.overlay import NO_PADDR
from mminspect.program.pagetable import PageTables
from mminspect.program.segments import Segments


class _Index:
    """
    Finds segments by address.

    :param segments: They don't overlap, and are sorted by their addresses.
    :param name: Which address: ``vaddr`` or ``paddr``.
    """

    def __init__(self, segments: Segments, name: str) -> None:
        self._segments = segments
        self._starts = array("Q", segments.column(name).tobytes())

    def find(self, address: int, size: int) -> int | None:
        """Get where in the file a range is, ``None`` if not all of it is in one segment."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, segment = self._starts[index], self._segments[index]
        return segment.offset + address - start if address + size <= start + segment.filesz else None


def _separate(segments: Segments) -> Segments:
    """Get the segments at virtual addresses that overlap no other. If some overlap, drgn decides which one it reads."""
    # Without virtual addresses, QEMU writes zero or the physical address.
    vaddr = segments.column("vaddr")
    known = segments.chosen((vaddr != 0) & (vaddr != segments.column("paddr")))
    known = known.chosen(np.argsort(known.column("vaddr"), kind="stable"))
    start = known.column("vaddr")
    size = np.maximum(known.column("memsz"), known.column("filesz"))
    end = start + np.minimum(size, ~start)
    separate = np.ones(len(known), np.bool_)
    separate[1:] = start[1:] >= np.maximum.accumulate(end)[:-1]
    separate[:-1] &= end[:-1] <= start[1:]
    return known.chosen(separate)


def _largest(segments: Segments) -> Segments:
    """Get the segments at physical addresses without those inside others: the kernel's image is in its RAM again."""
    known = segments.chosen(~np.isin(segments.column("paddr"), np.array(NO_PADDR, np.uint64)))
    known = known.chosen(np.lexsort((~known.column("filesz"), known.column("paddr"))))
    kept = []
    end = 0
    for index, (start, size) in enumerate(zip(known.column("paddr").tolist(), known.column("filesz").tolist())):
        if start >= end:
            kept.append(index)
            end = start + size
    return known.chosen(np.array(kept, np.intp))


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
        known = Segments.of(segments)
        self._virtual = _Index(_separate(known), "vaddr")
        self._physical = _Index(_largest(known), "paddr")
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

    def place(self, address: int, size: int) -> int | None:
        """Find memory that is in the file as drgn reads it."""
        return self._offset(address, size) if self.read(address, size) is not None else None
