# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory segments laid over a dump, where drgn alone would read it wrongly or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from drgn import FaultError, Program

from mminspect.program.corefile import Segment
from mminspect.program.vmcoreinfo import Vmcoreinfo

EXCLUDED = "excluded from the dump"
DAMAGED = "damaged in the dump"
# p_paddr of segments that have no physical address, in 32-bit and 64-bit ELF files.
NO_PADDR = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
# Values of PAGE_OFFSET that arch/x86/Kconfig offers for 32 bits, highest first.
I386_PAGE_OFFSETS = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)
# The direct mapping ends where vmalloc begins, 128 MiB below the top.
I386_LOWMEM_END = 0xF8000000


def fault_on_excluded(prog: Program, segments: Iterable[Segment]) -> bool:
    """
    Make reads of memory that was left out of an ELF dump fail.

    makedumpfile marks what it left out by ``p_filesz < p_memsz``. drgn returns zeros there, which
    look like a memmap that nobody initialised.

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


def i386_page_offset(vmcoreinfo: Vmcoreinfo) -> int:
    """Get PAGE_OFFSET, where the direct mapping starts; the kernel image lies in its first part."""
    text = vmcoreinfo.symbols.get("_stext", I386_PAGE_OFFSETS[0]) - vmcoreinfo.kaslr_offset
    return next((o for o in I386_PAGE_OFFSETS if o <= text), I386_PAGE_OFFSETS[0])


def map_i386_lowmem(prog: Program, vmcoreinfo: Vmcoreinfo, segments: Iterable[Segment]) -> None:
    """
    Map the lowmem of an i386 dump that has physical addresses only.

    drgn 0.3 can't walk i386 page tables. All that an analysis reads is in the direct mapping, where
    virtual = physical + PAGE_OFFSET.
    """
    page_offset = i386_page_offset(vmcoreinfo)
    # Without virtual addresses, QEMU writes zero or the physical address, which can be a high one (firmware).
    if any(s.vaddr >= page_offset and s.vaddr != s.paddr for s in segments):
        return

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        data: bytes = prog.read(offset, count, physical=True)
        return data

    prog.add_memory_segment(page_offset, I386_LOWMEM_END - page_offset, read)
