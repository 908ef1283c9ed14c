# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Page tables of 64-bit RISC-V: Sv39, Sv48 and Sv57.

drgn 0.3 has no walk for them, so it reads no kernel memory out of a RISC-V dump. The kernel's half of the address
space is walked here and laid over the dump as one segment, read by physical address.
"""

from __future__ import annotations

import numpy as np
from drgn import Program

from mminspect.errors import TargetError
from mminspect.program.corefile import CoreFile
from mminspect.program.overlay import NO_PADDR
from mminspect.program.pagetable import LEVEL_BITS, PAGE_SHIFT, PageTables
from mminspect.program.segments import Segments
from mminspect.program.vmcoreinfo import Vmcoreinfo

PTE_VALID = 1 << 0
# An entry with one of R, W and X is a leaf, else it points to the next table.
PTE_LEAF = 7 << 1
PTE_PFN_SHIFT = 10
PTE_PFN_MASK = (1 << 44) - 1
# Svnapot: the entry is one of 16 that map 64 KiB together; the pfn's low four bits say so.
PTE_NAPOT = 1 << 63
NAPOT_ORDER = 4


def _entry(value: int, shift: int) -> tuple[int, int] | None:
    if not value & PTE_VALID:
        return None
    pfn = (value >> PTE_PFN_SHIFT) & PTE_PFN_MASK
    if not value & PTE_LEAF:
        return pfn << PAGE_SHIFT, 0
    if value & PTE_NAPOT:
        shift += NAPOT_ORDER
        pfn &= -1 << NAPOT_ORDER
    return pfn << PAGE_SHIFT, shift


def page_tables(prog: Program, root: int, va_bits: int) -> PageTables:
    """
    Get page tables.

    :param root: Physical address of the first.
    :param va_bits: 39, 48 or 57.
    """
    return PageTables(prog, root, (va_bits - PAGE_SHIFT) // LEVEL_BITS, _entry)


def _va_bits(vmcoreinfo: Vmcoreinfo) -> int | None:
    # It is 39, 48 or 57 by satp's mode, and 32 for Sv32.
    return vmcoreinfo.number("NUMBER(VA_BITS)")


def kernel_page_tables(prog: Program, vmcoreinfo: Vmcoreinfo) -> PageTables | None:
    """
    Get the kernel's page tables.

    :return: ``None`` if VMCOREINFO doesn't say where they are or what they look like.
    """
    va_bits = _va_bits(vmcoreinfo)
    # swapper_pg_dir is in the kernel image, whose offset this is; the linear mapping has another.
    offset = vmcoreinfo.number("NUMBER(va_kernel_pa_offset)")
    root = vmcoreinfo.symbols.get("swapper_pg_dir")
    if va_bits not in (39, 48, 57) or offset is None or root is None:
        return None
    return page_tables(prog, root - offset, va_bits)


def lay_over(prog: Program, vmcoreinfo: Vmcoreinfo, core: CoreFile) -> None:
    """
    Map the kernel's half of the address space.

    A dump that has virtual addresses only, such as a capture, is left as it is.

    :raises TargetError: if the page tables can't be found.
    """
    if np.isin(Segments.of(core.segments).column("paddr"), np.array(NO_PADDR, np.uint64)).any():
        return
    tables, va_bits = kernel_page_tables(prog, vmcoreinfo), _va_bits(vmcoreinfo)
    if tables is None or va_bits is None:
        raise TargetError(
            f"RISC-V page tables with VA_BITS {va_bits} can't be read: mminspect knows Sv39, Sv48 and Sv57 of kernels "
            "whose VMCOREINFO has swapper_pg_dir and va_kernel_pa_offset"
        )
    start = (1 << 64) - (1 << (va_bits - 1))
    prog.add_memory_segment(start, (1 << 64) - start, tables.read)
