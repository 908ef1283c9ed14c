# SPDX-License-Identifier: LGPL-2.1-or-later
"""makedumpfile's flattened format: a dump in records, each with its offset, as it goes through a pipe."""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, count

import numpy as np

from mminspect.errors import TargetError, TruncatedError

SIGNATURE = b"makedumpfile\0\0\0\0"
# Size of the header (MAX_SIZE_MDF_HEADER).
HEADER_SIZE = 4096
# Records that any dump can have, and the bytes of the file for each more. makedumpfile writes 32 KB, on average.
FEW_RECORDS = 1 << 16
RECORD_BYTES = 1024
# Offset and length of a record. Both are signed, and big-endian on every machine.
_RECORD = struct.Struct(">qq")


def read_records(fd: int, path: str) -> Iterator[tuple[int, int, int]]:
    """
    Go through the records of a flattened dump. They come in any order and overwrite each other.

    :return: Iterator of (offset in the dump, offset in the file, length).
    :raises TargetError: if the file is cut short or damaged.
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    pos = HEADER_SIZE
    for number in count():
        if number > FEW_RECORDS + pos // RECORD_BYTES:
            raise TargetError(f"{path}: more than {number} records in the first {pos} bytes; the dump is damaged")
        record = os.pread(fd, _RECORD.size, pos)
        if len(record) < _RECORD.size:
            raise TargetError(f"{path}: truncated: the flattened dump has no end mark; copy the dump again")
        offset, length = _RECORD.unpack(record)
        # The end mark.
        if offset == -1:
            return
        if offset < 0 or length <= 0 or offset + length >= 1 << 63:
            raise TargetError(f"{path}: the flattened dump is damaged at byte {pos}; copy the dump again")
        pos += _RECORD.size
        if pos + length > size:
            raise TruncatedError(path, size, pos + length)
        yield offset, pos, length
        pos += length


class FlattenedRecords:
    """
    The records of a flattened dump, in the order of what they hold.

    :param found: (offset in the dump, offset in the file, length) of each, in the order of the file.
    :ivar overlap: Whether some are written over others; then their order in the file matters.
    """

    def __init__(self, found: Iterable[tuple[int, int, int]]) -> None:
        rows = np.fromiter(chain.from_iterable(found), np.int64).reshape(-1, 3)
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        self.offsets, self.positions, self.lengths = (array("q", column.tobytes()) for column in rows.T)
        self.overlap = bool((rows[1:, 0] < np.maximum.accumulate(rows[:, 0] + rows[:, 2])[:-1]).any())

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """Where the dump ends."""
        return self.offsets[-1] + self.lengths[-1] if self.offsets else 0

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """
        Read the dump as if it were in order. Its records must not overlap.

        :return: As much as there is without a gap.
        """
        pieces = []
        index = max(0, bisect_right(self.offsets, offset) - 1)
        while size > 0 and index < len(self.offsets):
            inside = offset - self.offsets[index]
            length = min(size, self.lengths[index] - inside)
            if inside < 0 or length <= 0:
                break
            pieces.append(os.pread(fd, length, self.positions[index] + inside))
            offset += length
            size -= length
            index += 1
        return b"".join(pieces)
