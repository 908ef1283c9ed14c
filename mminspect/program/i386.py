# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The direct mapping of i386, where virtual = physical + PAGE_OFFSET.

drgn 0.3 has no walk for page tables of i386. All that an analysis reads is in lowmem, which the direct mapping has.
"""

from __future__ import annotations

from drgn import Program

from mminspect.program.corefile import CoreFile
from mminspect.program.segments import Segments
from mminspect.program.vmcoreinfo import Vmcoreinfo

# Values of PAGE_OFFSET that arch/x86/Kconfig offers for 32 bits, highest first.
PAGE_OFFSETS = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)
# The direct mapping ends where vmalloc begins, 128 MiB below the top.
LOWMEM_END = 0xF8000000


def page_offset(vmcoreinfo: Vmcoreinfo) -> int:
    """Get PAGE_OFFSET, where the direct mapping starts; the kernel image lies in its first part."""
    text = vmcoreinfo.symbols.get("_stext", PAGE_OFFSETS[0]) - vmcoreinfo.kaslr_offset
    return next((offset for offset in PAGE_OFFSETS if offset <= text), PAGE_OFFSETS[0])


def lay_over(prog: Program, vmcoreinfo: Vmcoreinfo, core: CoreFile) -> None:
    """Map the lowmem of a dump that has physical addresses only."""
    start = page_offset(vmcoreinfo)
    # Without virtual addresses, QEMU writes zero or the physical address, which can be a high one (firmware).
    segments = Segments.of(core.segments)
    vaddr = segments.column("vaddr")
    if ((vaddr >= start) & (vaddr != segments.column("paddr"))).any():
        return

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        data: bytes = prog.read(offset, count, physical=True)
        return data

    prog.add_memory_segment(start, LOWMEM_END - start, read)
