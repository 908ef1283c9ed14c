# SPDX-License-Identifier: LGPL-2.1-or-later
"""makedumpfile's flattened format: a dump in records, each with its offset, as it goes through a pipe."""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count

import numpy as np
import numpy.typing as npt

from mminspect.errors import TargetError

SIGNATURE = b"makedumpfile\0\0\0\0"
# Size of the header (MAX_SIZE_MDF_HEADER).
HEADER_SIZE = 4096
NO_END = "truncated: the flattened dump has no end mark"
# Records that any dump can have, and the bytes of the file for each more. makedumpfile writes 32 KB, on average.
FEW_RECORDS = 1 << 16
RECORD_BYTES = 1024
# Offset and length of a record. Both are signed, and big-endian on every machine.
_RECORD = struct.Struct(">qq")


class CutError(TargetError):
    """
    A flattened dump ends before its end mark.

    :ivar rest: What is there of the last record.
    """

    def __init__(self, path: str, rest: Sequence[tuple[int, int, int]] = ()) -> None:
        super().__init__(f"{path}: {NO_END}; copy the dump again")
        self.rest = rest


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
            raise CutError(path)
        offset, length = _RECORD.unpack(record)
        # The end mark.
        if offset == -1:
            return
        if offset < 0 or length <= 0 or offset + length >= 1 << 63:
            raise TargetError(f"{path}: the flattened dump is damaged at byte {pos}; copy the dump again")
        pos += _RECORD.size
        if pos + length > size:
            raise CutError(path, [(offset, pos, size - pos)] if size > pos else [])
        yield offset, pos, length
        pos += length


def read_records_there_are(fd: int, path: str) -> tuple[list[tuple[int, int, int]], str | None]:
    """
    Go through the records of a flattened dump, as far as they are there.

    :return: The records as :func:`read_records` gives them, and why they aren't all, ``None`` if they are.
    :raises TargetError: if there is none, or one is damaged.
    """
    found: list[tuple[int, int, int]] = []
    try:
        for record in read_records(fd, path):
            found.append(record)
    except CutError as e:
        found += e.rest
        if not found:
            raise
        return found, NO_END
    return found, None


class FlattenedRecords:
    """
    The records of a flattened dump, in the order of what they hold.

    :param found: (offset in the dump, offset in the file, length) of each, in the order of the file.
    :ivar overlap: Whether some are written over others; then their order in the file matters.
    """

    def __init__(self, found: Iterable[tuple[int, int, int]]) -> None:
        rows = np.fromiter(chain.from_iterable(found), np.int64).reshape(-1, 3)
        ends = rows[:, 0] + rows[:, 2]
        self._end = int(ends.max()) if len(rows) else 0
        order = np.lexsort((rows[:, 1], rows[:, 0]))
        self.overlap = bool((rows[order, 0][1:] < np.maximum.accumulate(ends[order])[:-1]).any())
        self._written: npt.NDArray[np.int64] = rows if self.overlap else rows[:0]
        self.offsets, self.positions, self.lengths = (array("q", column.tobytes()) for column in rows[order].T)

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """Where the dump ends."""
        return self._end

    def next_data(self, offset: int) -> int | None:
        """Get the first offset from another on that a record may have, ``None`` if there is none."""
        if self.overlap:
            return offset if offset < self._end else None
        index = bisect_right(self.offsets, offset)
        if index and offset < self.offsets[index - 1] + self.lengths[index - 1]:
            return offset
        return self.offsets[index] if index < len(self.offsets) else None

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """
        Read the dump as if it were in order. Where records overlap, this looks through all of them.

        What no record has is zeros, as in the file that makedumpfile -R makes.

        :return: As much as there is before the dump's end.
        """
        if self.overlap:
            return self._pread_written(fd, size, offset)
        pieces = []
        index = max(0, bisect_right(self.offsets, offset) - 1)
        while size > 0 and index < len(self.offsets):
            inside = offset - self.offsets[index]
            if inside < 0:
                length = min(size, -inside)
                pieces.append(bytes(length))
            else:
                length = max(0, min(size, self.lengths[index] - inside))
                pieces.append(os.pread(fd, length, self.positions[index] + inside))
                index += 1
            offset += length
            size -= length
        return b"".join(pieces)

    def _pread_written(self, fd: int, size: int, offset: int) -> bytes:
        """Read what was written last at each place."""
        data = bytearray(max(0, min(size, self._end - offset)))
        starts, lengths = self._written[:, 0], self._written[:, 2]
        inside = (starts < offset + len(data)) & (starts + lengths > offset)
        for start, pos, length in self._written[inside].tolist():
            low, high = max(start, offset), min(start + length, offset + len(data))
            data[low - offset : high - offset] = os.pread(fd, high - low, pos + low - start)
        return bytes(data)
