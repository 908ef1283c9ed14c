# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Make the RAM file of a guest a vmcore, without a copy.

The ELF header lies over a PC's real-mode interrupt vectors, which no kernel reads, and on other machines in memory that
the kernel isn't told of. All the rest lies behind the RAM.
"""

from __future__ import annotations

import os
import struct

from contrib.explore.board import HIGH_MEMORY, PC, PCI_HOLE, VIRT_RAM, Board
from contrib.explore.machine import Ram

PT_LOAD, PT_NOTE = 1, 4
ET_CORE = 4
PHDR_SIZE, EHDR_SIZE = 56, 64
READ_WRITE_EXECUTE = 7
ALIGN = 4096
I386_PAGE_OFFSET = 0xC0000000
# High memory of i386 is mapped nowhere: at no address that a 32-bit kernel has.
NOWHERE = 1 << 40


def _note(info: bytes) -> bytes:
    name = b"VMCOREINFO\0"
    return struct.pack("<III", len(name), len(info), 0) + name.ljust(12, b"\0") + info + bytes(-len(info) % 4)


def _load(offset: int, virtual: int, physical: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", PT_LOAD, READ_WRITE_EXECUTE, offset, virtual, physical, size, size, 0)


def segments(ram_size: int, low_memory: int | None, board: Board = PC) -> list[tuple[int, int, int, int]]:
    """
    Return the segments of a vmcore: offset, virtual address, physical address, size.

    :param ram_size: Size of the RAM file.
    :param low_memory: End of the memory that an i386 kernel maps directly; ``None`` for amd64. drgn walks no page
        tables of i386, so the segment says where that is.
    """
    if not board.is_pc:
        return [(0, 0, VIRT_RAM, ram_size)]
    low = min(ram_size, PCI_HOLE)
    nowhere = 0 if low_memory is None else NOWHERE
    parts = []
    if low_memory is None:
        parts.append((0, 0, 0, low))
    else:
        parts.append((0, I386_PAGE_OFFSET, 0, low_memory))
        parts.append((low_memory, nowhere + low_memory, low_memory, low - low_memory))
    if ram_size > PCI_HOLE:
        parts.append((PCI_HOLE, nowhere + HIGH_MEMORY if nowhere else 0, HIGH_MEMORY, ram_size - PCI_HOLE))
    return parts


def _copy(source: Ram, target: int, offset: int) -> None:
    """Copy what a file has beside holes."""
    hole = 0
    while True:
        try:
            data = os.lseek(source.fd, hole, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        hole = os.lseek(source.fd, data, os.SEEK_HOLE)
        os.lseek(source.fd, data, os.SEEK_SET)
        os.lseek(target, offset + data, os.SEEK_SET)
        while data < hole:
            data += os.sendfile(target, source.fd, None, hole - data)


def make_vmcore(ram: Ram, info: bytes, machine: int, low_memory: int | None = None) -> None:
    """
    Turn the RAM file into a vmcore.

    :param info: VMCOREINFO.
    :param machine: ``e_machine`` of the kernel's CPU.
    :param low_memory: See :func:`segments`.
    """
    note = _note(info)
    loads = [_load(*part) for part in segments(ram.size, low_memory, ram.board)]
    end = ram.size + ALIGN + len(note)
    for start, device in sorted(ram.devices.items()):
        offset = -(-end // ALIGN) * ALIGN
        loads.append(_load(offset, 0, start, device.size))
        end = offset + device.size
    headers = struct.pack("<IIQQQQQQ", PT_NOTE, 0, ram.size + ALIGN, 0, 0, len(note), 0, 0) + b"".join(loads)
    identification = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    fields = (ET_CORE, machine, 1, 0, ram.size, 0, 0, EHDR_SIZE, PHDR_SIZE, 1 + len(loads), 0, 0, 0)
    os.ftruncate(ram.fd, end)
    os.pwrite(ram.fd, headers, ram.size)
    os.pwrite(ram.fd, note, ram.size + ALIGN)
    offset = ram.size + ALIGN + len(note)
    for _, device in sorted(ram.devices.items()):
        offset = -(-offset // ALIGN) * ALIGN
        _copy(device, ram.fd, offset)
        offset += device.size
    os.pwrite(ram.fd, identification + struct.pack("<HHIQQQIHHHHHH", *fields), 0)
