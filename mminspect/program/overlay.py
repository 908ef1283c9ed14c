# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory segments laid over a dump, where drgn alone would read it wrongly or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from drgn import FaultError, Program

from mminspect.program.elf import Segment

EXCLUDED = "excluded from the dump"
DAMAGED = "damaged in the dump"
MISSING = "missing from a dump that is not whole"
# p_paddr of segments that have no physical address, in 32-bit and 64-bit ELF files.
NO_PADDR = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def fault_on_excluded(prog: Program, segments: Iterable[Segment]) -> None:
    """
    Make reads of memory that an ELF dump doesn't hold fail.

    makedumpfile marks what it left out by ``p_filesz < p_memsz``. drgn returns zeros there, which
    look like a memmap that nobody initialized.

    :param segments: The segments of the dump.
    """
    for segment in segments:
        held, known = segment.filesz, segment.filesz + segment.lost
        _fault(prog, segment, held, known, MISSING)
        _fault(prog, segment, known, segment.memsz, EXCLUDED)


def _fault(prog: Program, segment: Segment, start: int, end: int, why: str) -> None:
    """Make reads of a part of a segment fail."""
    if start >= end:
        return

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError(why, address)

    if segment.paddr not in NO_PADDR:
        prog.add_memory_segment(segment.paddr + start, end - start, read, physical=True)
    if segment.vaddr and segment.vaddr != segment.paddr:
        prog.add_memory_segment(segment.vaddr + start, end - start, read)
