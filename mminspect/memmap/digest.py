# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What many struct pages have in common, at the speed of memory.

Nearly every part of nearly every memmap is dull: one zone, no compound page, free blocks of the largest order. The bits
that any struct page has, and those that all have, prove it for a whole chunk, and tell where to look where it isn't so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.unsignedinteger]
# Rows of a digest. Free blocks are aligned to powers of two, so that their first pages meet in few rows. With more of
# them, the two tables wouldn't stay in a CPU's first cache, of 32 KiB at least.
ROWS = 128
# Bytes that numpy goes through twice at once. They stay in the cache of any CPU meanwhile.
PIECE = 1 << 19


class Digest(NamedTuple):
    """
    The bits of struct pages, shape (ROWS, words of a struct page), in the kernel's byte order.

    Row ``r`` stands for the pages of index ``r`` modulo ROWS.

    :ivar any: Bits that at least one page has.
    :ivar all: Bits that every page has.
    """

    any: Table
    all: Table

    def any_bits(self, offset: int) -> int:
        """Get the bits that a page has in the word at an offset in bytes."""
        return int(np.bitwise_or.reduce(self.any[:, offset // self.any.itemsize]))

    def all_bits(self, offset: int) -> int:
        """Get the bits that all pages have in the word at an offset in bytes."""
        return int(np.bitwise_and.reduce(self.all[:, offset // self.all.itemsize]))


def combine(parts: Sequence[tuple[int, Digest]]) -> Digest:
    """
    Get the digest of adjacent struct pages out of the digests of their parts.

    :param parts: (index of the first page of the part, its digest).
    """
    if len(parts) == 1:
        return parts[0][1]
    # Row 0 of a part is the row of its first page.
    some = [np.roll(part.any, start, axis=0) if start % ROWS else part.any for start, part in parts]
    every = [np.roll(part.all, start, axis=0) if start % ROWS else part.all for start, part in parts]
    return Digest(np.bitwise_or.reduce(some, axis=0), np.bitwise_and.reduce(every, axis=0))


def numpy_fold(pages: npt.NDArray[np.uint8], some: npt.NDArray[np.uint8], every: npt.NDArray[np.uint8]) -> None:
    """Do what ``_digest.fold()`` does, in two passes, each piece twice while it is in the cache."""
    row = len(some)
    rows = pages[: len(pages) - len(pages) % row].reshape(-1, row)
    part = np.empty_like(some)
    step = max(PIECE // row, 1)
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        some |= np.bitwise_or.reduce(piece, axis=0, out=part)
        every &= np.bitwise_and.reduce(piece, axis=0, out=part)
    rest = pages[rows.size :]
    some[: len(rest)] |= rest
    every[: len(rest)] &= rest


try:
    from mminspect.memmap._digest import fold
except ImportError:
    # It is compiled where there is a compiler when mminspect is installed.
    fold = numpy_fold


def digests(words: Table, parts: Sequence[tuple[int, int]]) -> tuple[Table, Table]:
    """
    Go through struct pages.

    :param words: Shape (pages, words of a struct page), contiguous.
    :param parts: Half-open ranges of pages.
    :return: The two tables of each part's :class:`Digest`, shape (parts, ROWS, words of a struct page).
    """
    # By bytes, whatever the alignment: struct pages begin where they happen to in a file.
    pages = words.view(np.uint8)
    size = pages.shape[1]
    pages = pages.reshape(-1)
    some, every = np.zeros((len(parts), ROWS * size), np.uint8), np.full((len(parts), ROWS * size), 0xFF, np.uint8)
    for index, (start, end) in enumerate(parts):
        fold(pages[start * size : end * size], some[index], every[index])
    shape = (len(parts), ROWS, words.shape[1])
    return some.view(words.dtype).reshape(shape), every.view(words.dtype).reshape(shape)


def digest(words: Table) -> Digest:
    """Go through struct pages, as :func:`digests`, in one part."""
    some, every = digests(words, [(0, len(words))])
    return Digest(some[0], every[0])
