# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The memory of an ELF dump without a copy: its file, mapped.

drgn copies what it reads. Where the dump's own headers say which part of the file holds a virtual address, as in every
capture, the copy can be left out, which takes as long as all the checks together.
"""

import mmap
import os
from bisect import bisect_right
from typing import Iterable, List, Optional

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program

from mminspect.target.corefile import Segment

# MADV_POPULATE_READ of linux/mman.h, since Linux 5.14. It reports what would be SIGBUS at the first access.
_POPULATE_READ = 22
# Bytes at each end that are compared with what drgn reads.
_COMPARED = 64


class MappedFile:
    """
    Maps parts of an ELF dump.

    :param prog: The program that has the dump open. What is laid over its memory must be in the dump's headers.
    :param fd: The dump; kept open through a descriptor of its own.
    :param segments: Its segments. Those that overlap another, or have no virtual address, are left to drgn.
    """

    def __init__(self, prog: Program, fd: int, segments: Iterable[Segment]) -> None:
        self._prog = prog
        # Without virtual addresses, QEMU writes zero or the physical address.
        known = sorted((s for s in segments if s.vaddr and s.vaddr != s.paddr), key=lambda s: s.vaddr)
        self._segments: List[Segment] = []
        end = 0
        for index, segment in enumerate(known):
            following = known[index + 1].vaddr if index + 1 < len(known) else None
            last = segment.vaddr + max(segment.memsz, segment.filesz)
            if segment.vaddr >= end and (following is None or last <= following):
                self._segments.append(segment)
            end = max(end, last)
        self._starts = [segment.vaddr for segment in self._segments]
        self._file = open(os.dup(fd), "rb", buffering=0)  # noqa: SIM115

    def holds(self, address: int) -> bool:
        """Tell whether the file has a virtual address."""
        segment = self._segment(address)
        return segment is not None and address - segment.vaddr < segment.filesz

    def _segment(self, address: int) -> Optional[Segment]:
        index = bisect_right(self._starts, address) - 1
        return self._segments[index] if index >= 0 else None

    def read(self, address: int, size: int) -> Optional[npt.NDArray[np.uint8]]:
        """
        Map memory.

        :param address: Virtual address.
        :param size: In bytes.
        :return: The bytes; the mapping goes with them. ``None`` if drgn must read them.
        """
        segment = self._segment(address)
        if segment is None:
            return None
        offset = address - segment.vaddr
        if offset + size > segment.filesz or size < 2 * _COMPARED:
            return None
        offset += segment.offset
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            # A file that was cut short meanwhile.
            if os.fstat(self._file.fileno()).st_size < offset + size:
                return None
            mapping = mmap.mmap(
                self._file.fileno(), offset + size - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=start
            )
            mapping.madvise(_POPULATE_READ)
        except (OSError, ValueError):
            return None
        data = np.frombuffer(mapping, np.uint8)[offset - start :]
        try:
            first = self._prog.read(address, _COMPARED)
            last = self._prog.read(address + size - _COMPARED, _COMPARED)
        except FaultError:
            return None
        return data if data[:_COMPARED].tobytes() == first and data[-_COMPARED:].tobytes() == last else None
