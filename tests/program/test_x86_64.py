# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables of x86-64, made by hand."""

from __future__ import annotations

import struct

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from mminspect.program import x86_64
from mminspect.program.pagetable import PageTables
from mminspect.program.vmcoreinfo import Vmcoreinfo

PHYS_BASE = 0x2000000
ROOT = 0x3000000
PRESENT, PSE, NX, GLOBAL = 1, 0x80, 1 << 63, 0x100
SME = 1 << 47


def tables(entries: dict[int, dict[int, int]], extra: str = "") -> PageTables:
    """Make page tables of (physical address of a table: (index: entry))."""
    prog = Program(Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN))
    for address, table in entries.items():
        data = b"".join(struct.pack("<Q", table.get(index, 0)) for index in range(512))
        prog.add_memory_segment(
            address, 4096, lambda a, n, offset, p, data=data: data[offset : offset + n], physical=True
        )
    root = x86_64.START_KERNEL_MAP + ROOT - PHYS_BASE
    text = f"SYMBOL(swapper_pg_dir)={root:x}\nNUMBER(phys_base)={PHYS_BASE}\n{extra}"
    made = x86_64.kernel_page_tables(prog, Vmcoreinfo(text))
    assert made is not None
    return made


def address(*indexes: int) -> int:
    """Make a virtual address of the indexes into four tables, and canonical."""
    value = sum(index << shift for index, shift in zip(indexes, (39, 30, 21, 12)))
    return value | (0xFFFF << 48 if value >> 47 & 1 else 0)


FOUR = {
    ROOT: {468: 0x4000000 | PRESENT},
    0x4000000: {0: 0x5000000 | PRESENT, 1: 0x1_4000_0000 | PRESENT | PSE | NX, 2: 0x9000000},
    0x5000000: {3: 0x12_3460_0000 | PRESENT | PSE | NX | GLOBAL, 4: 0x6000000 | PRESENT},
    0x6000000: {5: 0x7777000 | PRESENT | PSE | NX, 6: 0x7778000},
}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (address(468, 0, 3, 0) + 0x123456, (0x12_3460_0000 + 0x123456, (1 << 21) - 0x123456)),
        (address(468, 1, 2, 3), (0x1_4000_0000 + (2 << 21) + (3 << 12), (1 << 30) - (2 << 21) - (3 << 12))),
        # In the last level PSE is PAT.
        (address(468, 0, 4, 5) + 8, (0x7777008, 4088)),
    ],
)
def test_leaves_of_each_level(where: int, expected: tuple[int, int]) -> None:
    assert tables(FOUR).translate(where) == expected


@pytest.mark.parametrize("where", [address(1, 0, 0, 0), address(468, 2, 0, 0), address(468, 0, 4, 6)])
def test_what_is_not_present_is_a_fault(where: int) -> None:
    with pytest.raises(FaultError):
        tables(FOUR).translate(where)


def test_table_that_is_not_in_the_dump_is_a_fault() -> None:
    with pytest.raises(FaultError):
        tables({ROOT: FOUR[ROOT]}).translate(address(468, 0, 3, 0))


def test_five_levels() -> None:
    five = {ROOT: {511: 0x3800000 | PRESENT}, 0x3800000: FOUR[ROOT], **{k: v for k, v in FOUR.items() if k != ROOT}}
    made = tables(five, "NUMBER(pgtable_l5_enabled)=1\n")
    assert made.translate(address(468, 0, 3, 0) | 0x1FF << 48) == (0x12_3460_0000, 1 << 21)


def test_bit_of_memory_encryption_is_no_address() -> None:
    encrypted = {table: {index: entry | SME for index, entry in of.items()} for table, of in FOUR.items()}
    made = tables(encrypted, f"NUMBER(sme_mask)={SME}\n")
    assert made.translate(address(468, 0, 3, 0)) == (0x12_3460_0000, 1 << 21)


def test_without_the_place_of_the_tables_there_are_none() -> None:
    prog = Program(Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN))
    assert x86_64.kernel_page_tables(prog, Vmcoreinfo("NUMBER(phys_base)=0\n")) is None
    assert x86_64.kernel_page_tables(prog, Vmcoreinfo("SYMBOL(swapper_pg_dir)=ffffffff82000000\n")) is None
