# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What many struct pages have in common, in two passes at the speed of memory.

Nearly every part of nearly every memmap is dull: one zone, no compound page, free blocks of the largest order. The bits
that any struct page has, and those that all have, prove it for a whole chunk, and tell where to look where it isn't so.
"""

from typing import NamedTuple, Sequence, Tuple

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.unsignedinteger]

# Rows of a digest. Free blocks are aligned to powers of two, so that their first pages meet in few rows.
ROWS = 256
# Bytes that are gone through twice at once. They stay in the cache of any CPU meanwhile.
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


def combine(parts: Sequence[Tuple[int, Digest]]) -> Digest:
    """
    Get the digest of adjacent struct pages out of the digests of their parts.

    :param parts: (index of the first page of the part, its digest).
    """
    # Row 0 of a part is the row of its first page.
    some = [np.roll(part.any, start, axis=0) if start % ROWS else part.any for start, part in parts]
    every = [np.roll(part.all, start, axis=0) if start % ROWS else part.all for start, part in parts]
    return Digest(np.bitwise_or.reduce(some, axis=0), np.bitwise_and.reduce(every, axis=0))


def digest(words: Table) -> Digest:
    """
    Go through struct pages.

    :param words: Shape (pages, words of a struct page), contiguous.
    """
    # By bytes, whatever the alignment: struct pages begin where they happen to in a file.
    pages = words.view(np.uint8)
    count, size = pages.shape
    whole = count - count % ROWS
    rows = pages[:whole].reshape(-1, ROWS * size)
    some = np.zeros(ROWS * size, np.uint8)
    every = np.full(ROWS * size, 0xFF, np.uint8)
    part = np.empty_like(some)
    step = max(PIECE // (ROWS * size), 1)
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        some |= np.bitwise_or.reduce(piece, axis=0, out=part)
        every &= np.bitwise_and.reduce(piece, axis=0, out=part)
    rest = pages[whole:].reshape(-1)
    some[: len(rest)] |= rest
    every[: len(rest)] &= rest
    shape = (ROWS, words.shape[1])
    return Digest(some.view(words.dtype).reshape(shape), every.view(words.dtype).reshape(shape))
