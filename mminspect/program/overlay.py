# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory segments laid over a dump, where drgn alone would read it wrongly or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from drgn import FaultError, Program

from mminspect.program.elf import Segment
from mminspect.program.segments import Column, Segments

EXCLUDED = "excluded from the dump"
DAMAGED = "damaged in the dump"
MISSING = "missing from a dump that is not whole"
ADDRESSES = 1 << 64
# p_paddr of segments that have no physical address, in 32-bit and 64-bit ELF files.
NO_PADDR = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def fault_on_excluded(prog: Program, segments: Iterable[Segment]) -> None:
    """
    Make reads of memory that an ELF dump doesn't hold fail.

    makedumpfile marks what it left out by ``p_filesz < p_memsz``. drgn returns zeros there, which
    look like a memmap that nobody initialized.

    :param segments: The segments of the dump.
    """
    segments = Segments.of(segments)
    held = segments.column("filesz")
    known = held + segments.column("lost")
    _fault(prog, segments, held, known, MISSING)
    _fault(prog, segments, known, segments.column("memsz"), EXCLUDED)


def _fault(prog: Program, segments: Segments, starts: Column, ends: Column, why: str) -> None:
    """Make reads of a part of each segment fail."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError(why, address)

    there = starts < ends
    chosen = segments.chosen(there)
    columns = (chosen.column("vaddr"), chosen.column("paddr"), starts[there], ends[there] - starts[there])
    add = prog.add_memory_segment
    for vaddr, paddr, start, size in zip(*(column.tolist() for column in columns)):
        # A damaged header can speak of memory behind the last address.
        if paddr not in NO_PADDR and paddr + start < ADDRESSES:
            add(paddr + start, min(size, ADDRESSES - paddr - start), read, physical=True)
        if vaddr and vaddr != paddr and vaddr + start < ADDRESSES:
            add(vaddr + start, min(size, ADDRESSES - vaddr - start), read)
