# SPDX-License-Identifier: LGPL-2.1-or-later
"""The format of LiME, the Linux Memory Extractor: ranges of physical memory, each behind a header of its own."""

from __future__ import annotations

import struct
from typing import Callable

from mminspect.program.elf import Segment

# The magic number 0x4C694D45, little-endian and big-endian.
MAGICS = (b"EMiL", b"LiME")
HEADER_SIZE = 32
MAX_RANGES = 1 << 16


def read_ranges(read: Callable[[int, int], bytes], size: int) -> tuple[list[Segment], bool]:
    """
    Go through the headers.

    :param read: Reads bytes of the file by size and offset.
    :param size: Bytes of the file.
    :return: The ranges, and whether the last one is whole.
    """
    found: list[Segment] = []
    pos = 0
    while pos + HEADER_SIZE <= size and len(found) < MAX_RANGES:
        header = read(HEADER_SIZE, pos)
        # The magic number, the version, and the first address and the last of the range.
        order = "<" if header[:4] == MAGICS[0] else ">"
        _, _, start, last = struct.unpack_from(order + "IIQQ", header)
        if header[:4] not in MAGICS or last < start:
            return found, False
        pos += HEADER_SIZE
        length = last + 1 - start
        held = min(length, size - pos)
        found.append(Segment(pos, 0, start, held, length, lost=length - held))
        pos += length
    return found, pos == size
