# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the harness puts into a guest's memory, against the assembler and the specifications."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from contrib.explore import rom
from contrib.explore.acpi import acpi_tables
from contrib.explore.board import MIB
from contrib.explore.bootparams import PAGE_TABLES, boot_params, page_tables
from contrib.explore.cpu import AMD64
from contrib.explore.image import Image, Segment
from contrib.explore.layout import ACPI_SIZE, SratEntry
from contrib.explore.tests.test_layout import PLAIN, RICH

IMAGE = Image(AMD64, 0x1000000, (Segment(0xFFFFFFFF81000000, 0x1000000, b"x", 4096),), b"\x01" * 16, {})


def assemble(lines: list[str], bits: int, tmp_path: Path) -> bytes:
    source = tmp_path / "rom.s"
    source.write_text("\n".join([f".code{bits}", *lines, ""]))
    subprocess.run(["as", "--32", "-o", tmp_path / "rom.o", source], check=True)
    subprocess.run(["objcopy", "-O", "binary", tmp_path / "rom.o", tmp_path / "rom.bin"], check=True)
    return (tmp_path / "rom.bin").read_bytes()


@pytest.mark.skipif(not shutil.which("as") or not shutil.which("objcopy"), reason="binutils are not installed")
@pytest.mark.parametrize("wide", [True, False])
def test_the_rom_is_what_the_assembler_makes_of_its_text(wide: bool, tmp_path: Path) -> None:
    first, then = rom.real_mode(), rom.protected_mode(wide, 0x1234567, 0x90000, 0x92000)
    assert assemble([text for _, text in first], 16, tmp_path) == rom.code(first)
    assert assemble([text for _, text in then], 32, tmp_path) == rom.code(then)


def test_the_reset_vector_jumps_to_the_code() -> None:
    data = rom.make_rom(True, 0x1000000, 0x90000, 0x92000)
    assert len(data) == 0x10000
    opcode, distance = struct.unpack_from("<BH", data, 0xFFF0)
    assert opcode == 0xE9
    assert (0xFFF3 + distance) & 0xFFFF == rom.CODE16
    assert data[rom.CODE16] == 0xFA


def test_every_acpi_table_sums_up_to_zero_and_is_where_its_pointer_says() -> None:
    at = 0x9F100
    data = acpi_tables(RICH, at)
    assert data.startswith(b"RSD PTR ")
    assert sum(data[:20]) & 0xFF == sum(data[:36]) & 0xFF == 0
    (xsdt,) = struct.unpack_from("<Q", data, 24)
    seen = []
    (size,) = struct.unpack_from("<I", data, xsdt - at + 4)
    pointers = struct.unpack_from(f"<{(size - 36) // 8}Q", data, xsdt - at + 36)
    for pointer in (xsdt, *pointers):
        signature, length = struct.unpack_from("<4sI", data, pointer - at)
        assert sum(data[pointer - at : pointer - at + length]) & 0xFF == 0
        seen.append(signature)
    assert seen == [b"XSDT", b"SRAT", b"APIC"]


def test_the_largest_tables_fit() -> None:
    entries = tuple(SratEntry(i * MIB, (i + 1) * MIB, i % 3) for i in range(72))
    assert len(acpi_tables(replace(RICH, srat=entries, cpu_nodes=(0,) * 8, cpus=8), 0x9F100)) <= ACPI_SIZE


def test_boot_params_hold_the_e820_table() -> None:
    page = boot_params(IMAGE, PLAIN)
    assert page[0x1E8] == 3
    assert struct.unpack_from("<QQI", page, 0x2D0 + 40) == (MIB, 399 * MIB, 1)
    assert page[0x1F1:0x201] == IMAGE.header


def test_page_tables_map_an_address_to_itself() -> None:
    tables, address = page_tables(), 0xC0345678
    entry = PAGE_TABLES
    for shift in (39, 30, 21):
        (entry,) = struct.unpack_from("<Q", tables, (entry & ~0xFFF) - PAGE_TABLES + 8 * (address >> shift & 511))
        assert entry & 1
    assert entry & 0x80
    assert (entry & ~0x1FFFFF) == address & ~0x1FFFFF
