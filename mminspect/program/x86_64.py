# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Page tables of x86-64, of four and five levels.

drgn walks them too. It tells the contents of memory, but not where in the dump they are.
"""

from __future__ import annotations

from drgn import Architecture, Platform, PlatformFlags, Program

from mminspect.program.pagetable import PAGE_SHIFT, PageTables
from mminspect.program.vmcoreinfo import Vmcoreinfo

_PAGE_PRESENT = 1 << 0
# Of entries above the last level: a leaf. In the last level the bit is PAT.
_PAGE_PSE = 1 << 7
PHYSICAL_MASK = ((1 << 52) - 1) & -(1 << PAGE_SHIFT)
START_KERNEL_MAP = 0xFFFFFFFF80000000
# Where the kernel image can be; modules follow.
KERNEL_IMAGE_SIZE = 1 << 30
# The least address of the direct mapping, with five levels.
START_DIRECT = 0xFF11000000000000
PLATFORM = Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)


def kernel_page_tables(prog: Program, vmcoreinfo: Vmcoreinfo) -> PageTables | None:
    """
    Get the kernel's page tables.

    :return: ``None`` if VMCOREINFO doesn't say where they are.
    """
    root = vmcoreinfo.symbols.get("swapper_pg_dir")
    phys_base = vmcoreinfo.number("NUMBER(phys_base)")
    if root is None or phys_base is None:
        return None
    levels = 5 if vmcoreinfo.number("NUMBER(pgtable_l5_enabled)") else 4
    return page_tables(prog, root - START_KERNEL_MAP + phys_base, levels, vmcoreinfo.number("NUMBER(sme_mask)") or 0)


def page_tables(prog: Program, root: int, levels: int, sme_mask: int = 0) -> PageTables:
    """
    Get page tables by where they are.

    :param root: Physical address of the uppermost one.
    :param sme_mask: Memory encryption of AMD takes a bit of every address.
    """
    mask = PHYSICAL_MASK & ~sme_mask

    def entry(value: int, shift: int) -> tuple[int, int] | None:
        if not value & _PAGE_PRESENT:
            return None
        if shift == PAGE_SHIFT or value & _PAGE_PSE:
            return value & mask & -(1 << shift), shift
        return value & mask, 0

    return PageTables(prog, root, levels, entry)
