# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The firmware of a direct boot: from the reset vector straight to the kernel's entry point.

Kernel, boot parameters and page tables are in memory already. Each instruction has its bytes beside it; a test
assembles the text and compares.
"""

from __future__ import annotations

import struct

ROM_SIZE = 0x10000
# The ROM ends at 4 GiB.
BASE = 0xFFFF0000
GDT, GDT_POINTER, CODE16, CODE32, RESET = 0x100, 0x120, 0x200, 0x240, 0xFFF0
BOOT_CS, BOOT_DS, FLAT_CS = 0x10, 0x18, 0x08
STACK = 0x7F000
DESCRIPTOR_CODE32 = 0x00CF9B000000FFFF
DESCRIPTOR_CODE64 = 0x00AF9B000000FFFF
DESCRIPTOR_DATA = 0x00CF93000000FFFF

Instructions = list[tuple[bytes, str]]


def word(value: int) -> bytes:
    """Return a 32-bit operand."""
    return struct.pack("<I", value)


def real_mode() -> Instructions:
    """Return the way from real to protected mode."""
    return [
        (b"\xfa", "cli"),
        (b"\x2e\x66\x0f\x01\x16" + struct.pack("<H", GDT_POINTER), f"lgdtl %cs:{GDT_POINTER:#x}"),
        (b"\x0f\x20\xc0", "mov %cr0,%eax"),
        (b"\x66\x83\xc8\x01", "or $1,%eax"),
        (b"\x0f\x22\xc0", "mov %eax,%cr0"),
        (b"\x66\xea" + word(BASE + CODE32) + struct.pack("<H", FLAT_CS), f"ljmpl ${FLAT_CS},${BASE + CODE32:#x}"),
    ]


def long_mode(page_tables: int) -> Instructions:
    """Return what turns paging and long mode on."""
    return [
        (b"\x0f\x20\xe0", "mov %cr4,%eax"),
        (b"\x83\xc8\x20", "or $0x20,%eax"),  # PAE
        (b"\x0f\x22\xe0", "mov %eax,%cr4"),
        (b"\xb8" + word(page_tables), f"mov ${page_tables:#x},%eax"),
        (b"\x0f\x22\xd8", "mov %eax,%cr3"),
        (b"\xb9" + word(0xC0000080), "mov $0xc0000080,%ecx"),  # EFER
        (b"\x0f\x32", "rdmsr"),
        (b"\x0d" + word(0x100), "or $0x100,%eax"),  # LME
        (b"\x0f\x30", "wrmsr"),
        (b"\x0f\x20\xc0", "mov %cr0,%eax"),
        (b"\x0d" + word(0x80000000), "or $0x80000000,%eax"),  # PG
        (b"\x0f\x22\xc0", "mov %eax,%cr0"),
    ]


def protected_mode(wide: bool, entry: int, boot_params: int, page_tables: int) -> Instructions:
    """Return the way to the kernel, with the registers that Documentation/arch/x86/boot.rst wants."""
    return [
        (b"\x66\xb8" + struct.pack("<H", BOOT_DS), f"mov ${BOOT_DS:#x},%ax"),
        (b"\x8e\xd8", "mov %eax,%ds"),
        (b"\x8e\xc0", "mov %eax,%es"),
        (b"\x8e\xd0", "mov %eax,%ss"),
        (b"\x8e\xe0", "mov %eax,%fs"),
        (b"\x8e\xe8", "mov %eax,%gs"),
        *(long_mode(page_tables) if wide else []),
        (b"\xbe" + word(boot_params), f"mov ${boot_params:#x},%esi"),
        (b"\x31\xed", "xor %ebp,%ebp"),
        (b"\x31\xff", "xor %edi,%edi"),
        (b"\x31\xdb", "xor %ebx,%ebx"),
        (b"\xbc" + word(STACK), f"mov ${STACK:#x},%esp"),
        (b"\x6a" + bytes([BOOT_CS]), f"push ${BOOT_CS:#x}"),
        (b"\x68" + word(entry), f"push ${entry:#x}"),
        (b"\xcb", "lret"),
    ]


def code(instructions: Instructions) -> bytes:
    """Return the bytes of instructions."""
    return b"".join(data for data, _ in instructions)


def make_rom(wide: bool, entry: int, boot_params: int, page_tables: int) -> bytes:
    """
    Return the ROM.

    :param wide: Whether the kernel is entered in long mode.
    :param entry: Physical address of the kernel's entry point.
    :param boot_params: Physical address of ``struct boot_params``.
    :param page_tables: Physical address of page tables that map the first 4 GiB to themselves.
    """
    rom = bytearray(ROM_SIZE)
    boot_code = DESCRIPTOR_CODE64 if wide else DESCRIPTOR_CODE32
    struct.pack_into("<4Q", rom, GDT, 0, DESCRIPTOR_CODE32, boot_code, DESCRIPTOR_DATA)
    struct.pack_into("<HI", rom, GDT_POINTER, 4 * 8 - 1, BASE + GDT)
    for at, instructions in (
        (CODE16, real_mode()),
        (CODE32, protected_mode(wide, entry, boot_params, page_tables)),
    ):
        data = code(instructions)
        rom[at : at + len(data)] = data
    # jmp CODE16; its distance counts from behind the three bytes.
    struct.pack_into("<BH", rom, RESET, 0xE9, (CODE16 - RESET - 3) & 0xFFFF)
    return bytes(rom)
