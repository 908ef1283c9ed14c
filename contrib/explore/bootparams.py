# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a boot loader puts into memory beside the kernel, see Documentation/arch/x86/zero-page.rst."""

from __future__ import annotations

import struct

from contrib.explore.board import BOOT_AREA, E820_TYPES
from contrib.explore.image import HEADER_START, Image
from contrib.explore.layout import Layout, LayoutError

BOOT_PARAMS, COMMAND_LINE, PAGE_TABLES = 0x90000, 0x91000, 0x92000
COMMAND_LINE_SIZE = 2048
ACPI_RSDP_ADDR, E820_ENTRIES, TYPE_OF_LOADER = 0x70, 0x1E8, 0x210
RAMDISK, CMD_LINE_PTR, E820_TABLE = 0x218, 0x228, 0x2D0
UNDEFINED_LOADER = 0xFF
PRESENT_WRITABLE, HUGE = 0x3, 0x80
# One CPU needs no APIC, and a kernel without it boots faster. lpj and tsc save the calibration.
WORDS = "nokaslr mitigations=off quiet no_timer_check lpj=4000000 tsc=reliable random.trust_cpu=on panic=0"
ONE_CPU = "nolapic noapic"


def command_line(layout: Layout) -> str:
    """Return the kernel's command line."""
    words = [WORDS, *([ONE_CPU] if layout.cpus == 1 else []), *layout.words]
    return " ".join(words)


def boot_params(image: Image, layout: Layout) -> bytes:
    """Return ``struct boot_params``."""
    page = bytearray(4096)
    page[HEADER_START : HEADER_START + len(image.header)] = image.header
    page[TYPE_OF_LOADER] = UNDEFINED_LOADER
    struct.pack_into("<I", page, CMD_LINE_PTR, COMMAND_LINE)
    if layout.acpi is not None:
        struct.pack_into("<Q", page, ACPI_RSDP_ADDR, layout.acpi)
    if layout.initrd is not None:
        struct.pack_into("<II", page, RAMDISK, layout.initrd.start, layout.initrd.size)
    page[E820_ENTRIES] = len(layout.e820)
    for index, entry in enumerate(layout.e820):
        fields = (entry.start, entry.end - entry.start, E820_TYPES[entry.type])
        struct.pack_into("<QQI", page, E820_TABLE + 20 * index, *fields)
    return bytes(page)


def page_tables() -> bytes:
    """Return page tables that map the first 4 GiB to themselves."""
    top = struct.pack("<Q", PAGE_TABLES + 0x1000 | PRESENT_WRITABLE).ljust(4096, b"\0")
    upper = b"".join(struct.pack("<Q", PAGE_TABLES + 0x2000 + 0x1000 * i | PRESENT_WRITABLE) for i in range(4))
    middle = b"".join(struct.pack("<Q", i << 21 | PRESENT_WRITABLE | HUGE) for i in range(4 * 512))
    tables = top + upper.ljust(4096, b"\0") + middle
    assert PAGE_TABLES + len(tables) <= BOOT_AREA[1]
    return tables


def loaded(image: Image, layout: Layout) -> list[tuple[int, bytes]]:
    """
    Return all that a boot loader writes, as physical addresses and bytes.

    :raises LayoutError: if the command line is too long.
    """
    words = command_line(layout).encode() + b"\0"
    if len(words) > COMMAND_LINE_SIZE:
        raise LayoutError(f"the command line has {len(words)} bytes: at most {COMMAND_LINE_SIZE}")
    pieces = [(segment.physical, segment.data) for segment in image.segments]
    pieces += [(BOOT_PARAMS, boot_params(image, layout)), (COMMAND_LINE, words)]
    return pieces + ([(PAGE_TABLES, page_tables())] if image.wide else [])
