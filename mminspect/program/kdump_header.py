# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The headers of a kdump-compressed dump: ``struct disk_dump_header`` and ``struct kdump_sub_header`` of makedumpfile.

Behind them come two bitmaps and a descriptor for each page that the dump holds.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.errors import TargetError

SIGNATURES = (b"KDUMP   ", b"DISKDUMP")
# Bytes that hold all the fields of the first header that are read.
HEADER_SIZE = 512
# Bytes without any page's data that there can be between those of pages.
MAX_GAP = 1 << 20
# Bytes of a bitmap that are counted together.
BITMAP_BLOCK = 4096
# The number of bits that are set in a byte.
_BITS = bytes(bin(byte).count("1") for byte in range(256))


class KdumpHeader(NamedTuple):
    """
    The fields of ``struct disk_dump_header`` that are needed here.

    :ivar order: ``<`` for little-endian, ``>`` for big-endian.
    :ivar version: ``header_version``.
    :ivar is_64_bit: Whether the dumped machine is a 64-bit one.
    :ivar block_size: Size of a page, and of the blocks that the header counts in.
    :ivar sub_hdr_size: Blocks of the sub header, which follows the header's block.
    :ivar bitmap_blocks: Blocks of the two bitmaps, which follow that.
    :ivar status: Flags: how pages are compressed.
    :ivar max_mapnr: The pfn behind the last, cut to 32 bits.
    """

    order: str
    version: int
    is_64_bit: bool
    block_size: int
    sub_hdr_size: int
    bitmap_blocks: int
    status: int
    max_mapnr: int

    @property
    def bitmap_start(self) -> int:
        """Offset of the second bitmap, which says of which pages the dump has a descriptor."""
        return (1 + self.sub_hdr_size) * self.block_size + self.bitmap_size

    @property
    def bitmap_size(self) -> int:
        """Size of one bitmap in bytes."""
        return self.bitmap_blocks * self.block_size // 2

    @property
    def data_start(self) -> int:
        """Offset of the page descriptors."""
        return (1 + self.sub_hdr_size + self.bitmap_blocks) * self.block_size

    @property
    def descriptor(self) -> np.dtype[np.void]:
        """The type of ``struct page_desc``: offset and size of a page's data, how it is compressed, page flags."""
        fields = (("offset", "u8"), ("size", "u4"), ("flags", "u4"), ("page_flags", "u8"))
        return np.dtype([(name, self.order + kind) for name, kind in fields])

    def notes(self, sub_header: bytes) -> tuple[int, int]:
        """Get the offset and the size of the ELF notes; (0, 0) if a dump of this version has none."""
        # struct kdump_sub_header of a 64-bit machine, since version 4: offset_note and size_note.
        if not self.is_64_bit or self.version < 4 or len(sub_header) < 64:
            return 0, 0
        offset, size = struct.unpack_from(self.order + "QQ", sub_header, 48)
        return offset, size

    def vmcoreinfo_size(self, sub_header: bytes) -> int:
        """Get the size of VMCOREINFO in bytes; 0 if a dump of this version doesn't tell."""
        # struct kdump_sub_header of a 64-bit machine, since version 3: size_vmcoreinfo.
        if not self.is_64_bit or self.version < 3 or len(sub_header) < 48:
            return 0
        return int(struct.unpack_from(self.order + "Q", sub_header, 40)[0])

    def piece(self, sub_header: bytes) -> tuple[int, int] | None:
        """Get the pfns whose pages this file has, if others hold the rest of the dump."""
        # phys_base, a long; dump_level, split; start_pfn, end_pfn, longs.
        words = struct.Struct(self.order + ("QiiQQ" if self.is_64_bit else "IiiII"))
        _, _, split, start, end = words.unpack_from(sub_header)
        if not split:
            return None
        # Since version 6 of the format: start_pfn_64 and end_pfn_64, behind three pairs of an offset and a size.
        if self.is_64_bit and self.version >= 6 and len(sub_header) >= 96:
            start, end = struct.unpack_from(self.order + "QQ", sub_header, 80)
        return start, end


def decode(header: bytes, path: str) -> KdumpHeader:
    """
    Decode the first header.

    :param path: Name for messages.
    :raises TargetError: if it makes no sense.
    """
    # signature, header_version, utsname (6 times 65 bytes), timestamp, status, block_size, sub_hdr_size,
    # bitmap_blocks, max_mapnr.
    order = next((order for order in "<>" if 0 < struct.unpack_from(order + "i", header, 8)[0] < 0x10000), ">")
    (version,) = struct.unpack_from(order + "i", header, 8)
    # The timestamp is a struct timeval: the word size of the dumped machine decides where the rest
    # lies. Only one of the places holds a sensible block size.
    for words_at in (424, 412, 416):
        status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr = struct.unpack_from(
            order + "IiiiI", header, words_at
        )
        if block_size in (4096, 8192, 16384, 65536) and 0 < sub_hdr_size < 1024 and bitmap_blocks > 0:
            is_64_bit = words_at == 424
            return KdumpHeader(order, version, is_64_bit, block_size, sub_hdr_size, bitmap_blocks, status, max_mapnr)
    raise TargetError(f"{path}: the kdump header makes no sense; copy the dump again")


def count_bits(data: bytes) -> npt.NDArray[np.int64]:
    """
    Count the bits that are set in a bitmap.

    :return: Number of bits in each :data:`BITMAP_BLOCK` bytes.
    """
    counts = np.frombuffer(data.translate(_BITS), np.uint8)
    sums: npt.NDArray[np.int64] = np.add.reduceat(counts, np.arange(0, len(counts), BITMAP_BLOCK), dtype=np.int64)
    return sums


def end_of_data(table: npt.NDArray[np.void], block_size: int) -> int:
    """
    Get where the data of pages ends, by their descriptors.

    What a damaged descriptor names lies elsewhere: no page takes more than its own size, and there is no large gap in
    the data.
    """
    sizes, offsets = table["size"].astype(np.int64), table["offset"].astype(np.int64)
    good = (sizes > 0) & (sizes <= block_size) & (offsets >= 0) & (offsets <= np.iinfo(np.int64).max - block_size)
    # Pages of zeros share theirs, which may be far away.
    offsets, first = np.unique(offsets[good], return_index=True)
    if not len(offsets):
        return 0
    ends = np.maximum.accumulate(offsets + sizes[good][first])
    gaps = np.flatnonzero(offsets[1:] - ends[:-1] > MAX_GAP)
    # Most of them are right, so the one in the middle is.
    behind = gaps[gaps >= len(offsets) // 2]
    return int(ends[behind[0]] if len(behind) else ends[-1])
