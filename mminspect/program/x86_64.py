# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Page tables of x86-64, of four and five levels.

drgn walks them too. It tells the contents of memory, but not where in the dump they are.
"""

from __future__ import annotations

from drgn import Program

from mminspect.program.pagetable import PAGE_SHIFT, PageTables
from mminspect.program.vmcoreinfo import Vmcoreinfo

_PAGE_PRESENT = 1 << 0
# Of entries above the last level: a leaf. In the last level the bit is PAT.
_PAGE_PSE = 1 << 7
PHYSICAL_MASK = ((1 << 52) - 1) & -(1 << PAGE_SHIFT)
START_KERNEL_MAP = 0xFFFFFFFF80000000


def kernel_page_tables(prog: Program, vmcoreinfo: Vmcoreinfo) -> PageTables | None:
    """
    Get the kernel's page tables.

    :return: ``None`` if VMCOREINFO doesn't say where they are.
    """
    root = vmcoreinfo.symbols.get("swapper_pg_dir")
    phys_base = vmcoreinfo.number("NUMBER(phys_base)")
    if root is None or phys_base is None:
        return None
    # Memory encryption of AMD takes a bit of every address.
    mask = PHYSICAL_MASK & ~(vmcoreinfo.number("NUMBER(sme_mask)") or 0)

    def entry(value: int, shift: int) -> tuple[int, int] | None:
        if not value & _PAGE_PRESENT:
            return None
        if shift == PAGE_SHIFT or value & _PAGE_PSE:
            return value & mask & -(1 << shift), shift
        return value & mask, 0

    levels = 5 if vmcoreinfo.number("NUMBER(pgtable_l5_enabled)") else 4
    return PageTables(prog, root - START_KERNEL_MAP + phys_base, levels, entry)
