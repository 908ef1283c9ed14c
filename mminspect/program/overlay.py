# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory segments laid over a dump, where drgn alone would read it wrongly or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from drgn import FaultError, Program

from mminspect.program.elf import Segment

EXCLUDED = "excluded from the dump"
DAMAGED = "damaged in the dump"
# p_paddr of segments that have no physical address, in 32-bit and 64-bit ELF files.
NO_PADDR = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def fault_on_excluded(prog: Program, segments: Iterable[Segment]) -> bool:
    """
    Make reads of memory that was left out of an ELF dump fail.

    makedumpfile marks what it left out by ``p_filesz < p_memsz``. drgn returns zeros there, which
    look like a memmap that nobody initialized.

    :param segments: The segments of the dump.
    :return: Whether anything was left out.
    """

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError(EXCLUDED, address)

    found = False
    for segment in segments:
        left_out = segment.memsz - segment.filesz
        if left_out <= 0:
            continue
        found = True
        if segment.paddr not in NO_PADDR:
            prog.add_memory_segment(segment.paddr + segment.filesz, left_out, read, physical=True)
        if segment.vaddr and segment.vaddr != segment.paddr:
            prog.add_memory_segment(segment.vaddr + segment.filesz, left_out, read)
    return found
