# SPDX-License-Identifier: LGPL-2.1-or-later
"""The headers of kdump files, of every word size and byte order."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from mminspect.errors import TargetError
from mminspect.program import corefile
from mminspect.program.kdump_header import count_bits, decode
from tests.kit.dumps import ZLIB, make_kdump

# Where status follows struct timeval, by the padding before it and its size: 32 bits, 32 bits with a 64-bit time and
# no alignment of it, 64 bits.
PLACES = [(412, False), (416, False), (424, True)]


def header(order: str, place: int, block_size: int = 65536) -> bytes:
    """Make a ``struct disk_dump_header`` of version 6: status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr."""
    start = struct.pack(order + "8si", b"KDUMP   ", 6)
    fields = struct.pack(order + "IiiiI", 1, block_size, 2, 6, 0x123456)
    return (start.ljust(place, b"\0") + fields).ljust(512, b"\0")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("place", "is_64_bit"), PLACES)
def test_header(order: str, place: int, is_64_bit: bool) -> None:
    made = decode(header(order, place), "dump")
    assert (made.order, made.version, made.is_64_bit) == (order, 6, is_64_bit)
    assert (made.status, made.block_size, made.sub_hdr_size, made.bitmap_blocks) == (1, 65536, 2, 6)
    assert made.max_mapnr == 0x123456
    # A block for the header, two for the sub header, three for each bitmap, and then the descriptors.
    assert made.bitmap_size == 3 * 65536
    assert (made.bitmap_start, made.data_start) == (6 * 65536, 9 * 65536)
    assert made.descriptor.itemsize == 24
    assert made.descriptor["size"].str == ("<u4" if order == "<" else ">u4")


@pytest.mark.parametrize("order", ["<", ">"])
def test_sub_header(order: str) -> None:
    # phys_base, dump_level, split, start_pfn, end_pfn, offset and size of VMCOREINFO, offset_note and size_note.
    for split in (0, 1):
        # Since version 6, start_pfn_64 and end_pfn_64 behind offset_eraseinfo and size_eraseinfo.
        fields = (0, 31, split, 9, 9, 0x100, 0x200, 0x300, 0x400, 0, 0, 0x10, 0x20, 0x30)
        wide = struct.pack(order + "Qii11Q", *fields)
        narrow = struct.pack(order + "IiiII", 0, 31, split, 0x11, 0x22).ljust(72, b"\1")
        made = decode(header(order, 424), "dump")
        assert (made.notes(wide), made.piece(wide)) == ((0x300, 0x400), (0x10, 0x20) if split else None)
        # The notes of a 32-bit machine are not looked for.
        made = decode(header(order, 412), "dump")
        assert (made.notes(narrow), made.piece(narrow)) == ((0, 0), (0x11, 0x22) if split else None)


@pytest.mark.parametrize("block_size", [0, 4095, 1 << 20])
def test_block_size_that_can_not_be(block_size: int) -> None:
    with pytest.raises(TargetError, match="dump: the kdump header makes no sense"):
        decode(header("<", 424, block_size), "dump")


def test_bits_are_counted_by_block() -> None:
    assert count_bits(b"\xff" * 4096 + b"\x01" * 4096 + b"\x81\x00").tolist() == [32768, 4096, 2]


@pytest.mark.parametrize(("limit", "refused"), [(0, False), (-1, True)])
def test_bitmap_as_large_as_can_be(limit: int, refused: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = make_kdump({3: (b"x" * 4096, ZLIB)}, 8).data
    path = tmp_path / "dump"
    path.write_bytes(data)
    monkeypatch.setattr(corefile, "MAX_BITMAP_SIZE", decode(data[:512], "dump").bitmap_size + limit)
    with path.open("rb") as file:
        if refused:
            with pytest.raises(TargetError, match="more than any memory needs"):
                corefile.parse(file.fileno(), str(path))
        else:
            assert corefile.parse(file.fileno(), str(path)).format == "kdump"
