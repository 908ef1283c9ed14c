# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory segments laid over a dump, where drgn alone would read it wrongly or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from drgn import FaultError, Program

from mminspect.program.elf import Segment
from mminspect.program.segments import Segments

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

    segments = Segments.of(segments)
    segments = segments.chosen(segments.column("memsz") > segments.column("filesz"))
    columns = [segments.column(name).tolist() for name in ("vaddr", "paddr", "filesz", "memsz")]
    add = prog.add_memory_segment
    for vaddr, paddr, filesz, memsz in zip(*columns):
        if paddr not in NO_PADDR:
            add(paddr + filesz, memsz - filesz, read, physical=True)
        if vaddr and vaddr != paddr:
            add(vaddr + filesz, memsz - filesz, read)
    return bool(segments)
