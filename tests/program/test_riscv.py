# SPDX-License-Identifier: LGPL-2.1-or-later
"""RISC-V page tables, made by hand, and what is laid over a dump by them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from mminspect.errors import TargetError
from mminspect.program.corefile import CoreFile
from mminspect.program.elf import ET_CORE, PT_NOTE, Elf, Header, Note, Segment
from mminspect.program.open import open_vmcore
from mminspect.program.pagetable import LARGE_PAGE
from mminspect.program.riscv import kernel_page_tables, lay_over, page_tables
from mminspect.program.vmcoreinfo import Vmcoreinfo

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


def vmcoreinfo(va_bits: int = 39, root: str = "ffffffff80001000") -> str:
    """Make the lines of a kernel whose image is at its link address, ROOT below."""
    offset = 0xFFFFFFFF80001000 - ROOT
    return f"NUMBER(VA_BITS)={va_bits}\nNUMBER(va_kernel_pa_offset)={offset:#x}\nSYMBOL(swapper_pg_dir)={root}\n"


def test_page_tables_are_where_vmcoreinfo_says() -> None:
    memory = Memory()
    base = (1 << 64) - (1 << 38)
    memory.map(3, 1, base, 0x40000000)
    tables = kernel_page_tables(memory.prog, Vmcoreinfo(vmcoreinfo()))
    assert tables is not None
    assert tables.translate(base + 0x1234) == (0x40001234, 0x200000 - 0x1234)
    for missing in ("NUMBER(VA_BITS)", "NUMBER(va_kernel_pa_offset)", "SYMBOL(swapper_pg_dir)"):
        assert kernel_page_tables(memory.prog, Vmcoreinfo(vmcoreinfo().replace(missing, "X"))) is None


def test_kernel_half_is_laid_over_a_dump_without_virtual_addresses() -> None:
    memory = Memory()
    base = (1 << 64) - (1 << 38)
    memory.map(3, 0, base, ROOT + 60 * PAGE)
    memory.data[60 * PAGE : 60 * PAGE + 4] = b"data"
    lay_over(memory.prog, Vmcoreinfo(vmcoreinfo()), CoreFile("elf", 243, segments=(Segment(0, 0, ROOT, 64, 64),)))
    assert memory.prog.read(base, 4) == b"data"


def test_capture_needs_no_page_tables() -> None:
    memory = Memory()
    capture = CoreFile("elf", 243, segments=(Segment(0, 1 << 63, (1 << 64) - 1, 64, 64),))
    lay_over(memory.prog, Vmcoreinfo(""), capture)
    with pytest.raises(FaultError):
        memory.prog.read((1 << 64) - (1 << 38), 4)


@pytest.mark.parametrize("text", ["", vmcoreinfo(32), vmcoreinfo().replace("VA_BITS", "X")])
def test_kernel_whose_page_tables_are_not_known_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match="mminspect knows Sv39, Sv48 and Sv57"):
        lay_over(Memory().prog, Vmcoreinfo(text), CoreFile("kdump"))


def test_memory_of_a_dump_is_read_without_a_copy(tmp_path: Path) -> None:
    """A dump by QEMU: physical addresses only. Large pages map what is read."""
    memory = Memory()
    base = (1 << 64) - (1 << 38)
    # 4 MiB of other memory, mapped the other way round.
    large = bytes(range(256)) * (LARGE_PAGE >> 7)
    memory.map(3, 1, base, 0x40000000 + LARGE_PAGE)
    memory.map(3, 1, base + LARGE_PAGE, 0x40000000)
    elf = Elf(True, "<")
    text = f"OSRELEASE=6.12.0\nPAGESIZE=4096\n{vmcoreinfo()}"
    notes = elf.pack_note(Note("VMCOREINFO", 0, text.encode()))
    start = elf.header_size + 3 * elf.segment_size
    segments = [Segment(start, 0, 0, len(notes), len(notes), PT_NOTE)]
    start += len(notes)
    for address, size in ((0x40000000, len(large)), (ROOT, len(memory.data))):
        segments.append(Segment(start, 0, address, size, size))
        start += size
    header = elf.pack_header(Header(ET_CORE, 243, phoff=elf.header_size, phnum=3))
    path = tmp_path / "core"
    path.write_bytes(header + b"".join(map(elf.pack_segment, segments)) + notes + large + memory.data)
    target = open_vmcore(str(path))
    assert target.direct is not None
    for address, where in ((base + 4096, LARGE_PAGE + 4096), (base + LARGE_PAGE, 0)):
        data = target.direct.read(address, 1 << 20)
        assert data is not None
        assert data.tobytes() == target.prog.read(address, 1 << 20) == large[where : where + (1 << 20)]
