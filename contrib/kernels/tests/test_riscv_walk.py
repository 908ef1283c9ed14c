# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walk of RISC-V page tables, on tables made by hand."""

from __future__ import annotations

import struct

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from mminspect.program.riscv import page_tables

VALID, TABLE, READ_WRITE, NAPOT = 1, 0, 0b110, 1 << 63
PAGE = 4096
ROOT = 0x80000000


class Memory:
    """Physical memory with page tables in it."""

    def __init__(self) -> None:
        self.data = bytearray(64 * PAGE)
        self.tables = 1
        platform = Platform(Architecture.RISCV64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)
        self.prog = Program(platform)
        self.prog.add_memory_segment(ROOT, len(self.data), self.read, physical=True)

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return bytes(self.data[address - ROOT : address - ROOT + count])

    def map(self, levels: int, leaf_level: int, virtual: int, physical: int, flags: int = READ_WRITE) -> None:
        """Map one leaf, making the tables above it."""
        table = ROOT
        for level in range(levels - 1, leaf_level, -1):
            where = table - ROOT + (virtual >> 12 + 9 * level) % 512 * 8
            (entry,) = struct.unpack_from("<Q", self.data, where)
            if not entry:
                entry = (ROOT + self.tables * PAGE) >> 12 << 10 | VALID | TABLE
                self.tables += 1
                struct.pack_into("<Q", self.data, where, entry)
            table = entry >> 10 << 12
        where = table - ROOT + (virtual >> 12 + 9 * leaf_level) % 512 * 8
        struct.pack_into("<Q", self.data, where, physical >> 12 << 10 | VALID | flags)


@pytest.mark.parametrize("va_bits,levels", [(39, 3), (48, 4), (57, 5)])
def test_leaves_of_every_size(va_bits: int, levels: int) -> None:
    memory = Memory()
    base = (1 << 64) - (1 << va_bits - 1)
    memory.map(levels, 0, base + 0x5000, 0x12345000)
    memory.map(levels, 1, base + 0x40000000, 0x40000000)
    memory.map(levels, 2, base + 0x80000000, 0xC0000000)
    tables = page_tables(memory.prog, ROOT, va_bits)
    assert tables.translate(base + 0x5008) == (0x12345008, PAGE - 8)
    assert tables.translate(base + 0x40012345) == (0x40012345, 0x200000 - 0x12345)
    assert tables.translate(base + 0x80000010) == (0xC0000010, 0x40000000 - 0x10)


def test_napot_maps_64_kib() -> None:
    memory = Memory()
    base = (1 << 64) - (1 << 38)
    # The low four bits of the pfn are 1000.
    memory.map(3, 0, base + 0x3000, 0x12348000, READ_WRITE | NAPOT)
    assert page_tables(memory.prog, ROOT, 39).translate(base + 0x3004) == (0x12343004, 0x10000 - 0x3004)


def test_reads_cross_leaves_and_stop_at_holes() -> None:
    memory = Memory()
    base = (1 << 64) - (1 << 38)
    memory.map(3, 0, base, ROOT + 60 * PAGE)
    memory.map(3, 0, base + PAGE, ROOT + 50 * PAGE)
    memory.data[61 * PAGE - 2 : 61 * PAGE] = b"ab"
    memory.data[50 * PAGE : 50 * PAGE + 2] = b"cd"
    tables = page_tables(memory.prog, ROOT, 39)
    assert tables.read(base + PAGE - 2, 4, 0, False) == b"abcd"
    with pytest.raises(FaultError, match="not mapped"):
        tables.read(base + 2 * PAGE - 1, 2, 0, False)
