# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ELF header that makes RAM a vmcore."""

from __future__ import annotations

import os
import struct

import pytest

from contrib.explore.board import GIB, HIGH_MEMORY, MIB, PCI_HOLE
from contrib.explore.corefile import I386_PAGE_OFFSET, make_vmcore, segments
from contrib.explore.machine import Ram


@pytest.mark.parametrize("low_memory", [None, 896 * MIB])
@pytest.mark.parametrize("size", [4 * GIB, 9 * GIB])
def test_segments_hold_all_of_the_ram_once(size: int, low_memory: int | None) -> None:
    parts = segments(size, low_memory)
    assert sum(part[3] for part in parts) == size
    for offset, _, physical, length in parts:
        assert offset == (physical if physical < PCI_HOLE else physical - HIGH_MEMORY + PCI_HOLE)
        assert physical >= HIGH_MEMORY or physical + length <= PCI_HOLE


def test_i386_kernel_addresses_are_in_one_segment_only() -> None:
    parts = segments(9 * GIB, 896 * MIB)
    for address in (I386_PAGE_OFFSET, 0xC1D1FC48, I386_PAGE_OFFSET + 896 * MIB - 1):
        (hit,) = [part for part in parts if part[1] <= address < part[1] + part[3]]
        assert hit[2] + address - hit[1] == address - I386_PAGE_OFFSET
    assert not [part for part in parts if part[1] <= 0x1000 < part[1] + part[3]]


def test_the_header_points_to_segments_and_note() -> None:
    ram = Ram(4 * GIB)
    try:
        ram.write(MIB, b"memory")
        make_vmcore(ram, b"OSRELEASE=6.1\n", True)
        head = os.pread(ram.fd, 64, 0)
        assert head[:4] == b"\x7fELF"
        (phoff,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        rows = [struct.unpack("<IIQQQQQQ", os.pread(ram.fd, size, phoff + size * index)) for index in range(count)]
        assert [row[0] for row in rows] == [4, 1, 1]
        assert b"OSRELEASE=6.1" in os.pread(ram.fd, rows[0][5], rows[0][2])
        assert os.pread(ram.fd, 6, rows[1][2] + MIB) == b"memory"
        assert ram.used < MIB
    finally:
        ram.close()


def test_a_page_is_found_by_how_it_starts_and_only_there() -> None:
    ram = Ram(4 * GIB)
    try:
        ram.write(300 * MIB + 8, b"OSRELEASE=wrong")
        assert ram.find_page(b"OSRELEASE=") == b""
        ram.write(2 * GIB, b"OSRELEASE=6.1\nX=1\n")
        assert ram.find_page(b"OSRELEASE=") == b"OSRELEASE=6.1\nX=1\n"
        assert ram.used < MIB
    finally:
        ram.close()
