# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Page tables of 64-bit RISC-V: Sv39, Sv48 and Sv57.

drgn 0.3 has no walk for them, so it reads no kernel memory out of a RISC-V dump. The kernel's half of the address
space is walked here and laid over the dump as one segment, read by physical address.
"""

import struct
from functools import lru_cache
from typing import Iterable, Tuple

from drgn import FaultError, Program

from mminspect.errors import TargetError
from mminspect.target.corefile import Segment
from mminspect.target.overlay import NO_PADDR
from mminspect.target.vmcoreinfo import Vmcoreinfo

PAGE_SHIFT = 12
# Each level translates 9 bits: a table is one page of 8-byte entries.
LEVEL_BITS = 9
ENTRIES = 1 << LEVEL_BITS
PTE_VALID = 1 << 0
# An entry with one of R, W and X is a leaf, else it points to the next table.
PTE_LEAF = 7 << 1
PTE_PFN_SHIFT = 10
PTE_PFN_MASK = (1 << 44) - 1
# Svnapot: the entry is one of 16 that map 64 KiB together; the pfn's low four bits say so.
PTE_NAPOT = 1 << 63
NAPOT_ORDER = 4
# Tables that are kept. One of the last level is good for 2 MiB, one of the level above for 1 GiB.
CACHED_TABLES = 256


class PageTables:
    """
    The kernel's page tables.

    :param prog: Reads physical memory.
    :param root: Physical address of ``swapper_pg_dir``.
    :param va_bits: 39, 48 or 57.
    """

    def __init__(self, prog: Program, root: int, va_bits: int) -> None:
        self._prog = prog
        self._root = root
        self._levels = (va_bits - PAGE_SHIFT) // LEVEL_BITS
        self._table = lru_cache(CACHED_TABLES)(self._read_table)

    def _read_table(self, address: int) -> Tuple[int, ...]:
        return struct.unpack(f"<{ENTRIES}Q", self._prog.read(address, ENTRIES * 8, physical=True))

    def translate(self, address: int) -> Tuple[int, int]:
        """
        Translate a virtual address.

        :return: Physical address, and the number of bytes from there to the end of the leaf.
        :raises drgn.FaultError: if nothing is mapped there.
        """
        table = self._root
        for level in range(self._levels - 1, -1, -1):
            shift = PAGE_SHIFT + level * LEVEL_BITS
            entry = self._table(table)[(address >> shift) % ENTRIES]
            if not entry & PTE_VALID:
                break
            pfn = (entry >> PTE_PFN_SHIFT) & PTE_PFN_MASK
            if entry & PTE_LEAF:
                if entry & PTE_NAPOT:
                    shift += NAPOT_ORDER
                    pfn &= -1 << NAPOT_ORDER
                inside = address & ((1 << shift) - 1)
                return (pfn << PAGE_SHIFT) + inside, (1 << shift) - inside
            table = pfn << PAGE_SHIFT
        raise FaultError("address is not mapped", address)

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Read virtual memory, as ``drgn.Program.add_memory_segment()`` wants it: one read a leaf."""
        pieces = []
        while count:
            where, size = self.translate(address)
            size = min(size, count)
            pieces.append(self._prog.read(where, size, physical=True))
            address += size
            count -= size
        return b"".join(pieces)


def kernel_page_tables(prog: Program, vmcoreinfo: Vmcoreinfo) -> Tuple[PageTables, int]:
    """
    Get the kernel's page tables.

    :return: They, and VA_BITS.
    :raises TargetError: if VMCOREINFO doesn't say where they are or what they look like.
    """
    # NUMBER(VA_BITS) is 39, 48 or 57 by satp's mode, and 32 for Sv32.
    va_bits = vmcoreinfo.number("NUMBER(VA_BITS)")
    # swapper_pg_dir is in the kernel image, whose offset this is; the linear mapping has another.
    offset = vmcoreinfo.number("NUMBER(va_kernel_pa_offset)")
    root = vmcoreinfo.symbols.get("swapper_pg_dir")
    if va_bits not in (39, 48, 57) or offset is None or root is None:
        raise TargetError(
            f"RISC-V page tables with VA_BITS {va_bits} can't be read: mminspect knows Sv39, Sv48 and Sv57 of kernels "
            "whose VMCOREINFO has swapper_pg_dir and va_kernel_pa_offset"
        )
    return PageTables(prog, root - offset, va_bits), va_bits


def map_kernel(prog: Program, vmcoreinfo: Vmcoreinfo, segments: Iterable[Segment]) -> None:
    """
    Map the kernel's half of the address space.

    A dump that has virtual addresses only, such as a capture, is left as it is.

    :param segments: The segments of an ELF dump.
    :raises TargetError: if the page tables can't be found.
    """
    if any(segment.paddr in NO_PADDR for segment in segments):
        return
    tables, va_bits = kernel_page_tables(prog, vmcoreinfo)
    start = (1 << 64) - (1 << (va_bits - 1))
    prog.add_memory_segment(start, (1 << 64) - start, tables.read)
