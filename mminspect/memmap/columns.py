# SPDX-License-Identifier: LGPL-2.1-or-later
"""More columns of a chunk: members of struct page that few rules look at, and the free pages among them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memmap.digest import ROWS
from mminspect.memorymap.layout import Layout

Words = npt.NDArray[np.uint64]


def word_column(chunk: Chunk, layout: Layout, offset: int) -> npt.NDArray[np.unsignedinteger]:
    """
    Get a word of every struct page, in the kernel's byte order.

    :param offset: In bytes.
    """
    assert chunk.words is not None
    column: npt.NDArray[np.unsignedinteger] = chunk.words[:, offset // (layout.word_bits // 8)]
    return column


def int_column(chunk: Chunk, layout: Layout, offset: int) -> npt.NDArray[np.unsignedinteger]:
    """
    Get an ``unsigned int`` of every struct page likewise.

    The word that it is in is copied once and kept: ``_mapcount`` and ``_refcount`` share one on 64 bits.
    """
    size = layout.word_bits // 8
    kept: dict[int, npt.NDArray[np.unsignedinteger]] = chunk.__dict__.setdefault("_columns", {})
    if offset // size not in kept:
        kept[offset // size] = np.ascontiguousarray(word_column(chunk, layout, offset))
    return _uints(kept[offset // size], layout, offset)


def _uints(column: npt.NDArray[np.unsignedinteger], layout: Layout, offset: int) -> npt.NDArray[np.unsignedinteger]:
    """Get an ``unsigned int`` out of words. They must be contiguous."""
    size = layout.word_bits // 8
    order = "<" if layout.byteorder == "little" else ">"
    return column.view(f"{order}u4")[offset % size // 4 :: size // 4]


def uint_of_words(
    words: npt.NDArray[np.unsignedinteger], layout: Layout, offset: int
) -> npt.NDArray[np.unsignedinteger]:
    """
    Get an ``unsigned int`` out of struct pages.

    :param words: Shape (pages, words of a struct page).
    :param offset: In bytes.
    """
    return _uints(np.ascontiguousarray(words[:, offset // (layout.word_bits // 8)]), layout, offset)


def byte_column(chunk: Chunk, offset: int) -> npt.NDArray[np.uint8]:
    """Get a byte of every struct page."""
    assert chunk.words is not None
    return chunk.words.view(np.uint8)[:, offset]


def page_addresses(chunk: Chunk, layout: Layout, index: npt.NDArray[np.intp]) -> Words:
    """Get the addresses of struct pages by their index in the chunk."""
    size = layout.page_struct_size
    base = (chunk.section.mem_map + chunk.start_pfn * size) & ((1 << layout.word_bits) - 1)
    addresses: Words = np.uint64(base) + index.astype(np.uint64) * np.uint64(size)
    return addresses


def _with_mapcount(chunk: Chunk, layout: Layout, value: int) -> npt.NDArray[np.intp]:
    """
    Find the pages with a ``_mapcount``, which most pages don't have.

    :param value: As 32 bits, and not -1.
    :return: Indexes, ascending.
    """
    count = len(chunk.link)
    # Rows of the digest in which all pages have -1 have none.
    rows = np.flatnonzero(uint_of_words(chunk.digest().all, layout, layout.mapcount_offset) != 0xFFFFFFFF)
    if len(rows) > ROWS // 8:
        mapcount = int_column(chunk, layout, layout.mapcount_offset)
        return np.flatnonzero(mapcount == mapcount.dtype.type(value))
    index = (np.arange(0, count, ROWS)[:, np.newaxis] + rows).ravel()
    index = index[index < count]
    mapcount = _uints(word_column(chunk, layout, layout.mapcount_offset)[index], layout, layout.mapcount_offset)
    result: npt.NDArray[np.intp] = index[mapcount == mapcount.dtype.type(value)]
    return result


class FreePages(NamedTuple):
    """
    The free pages of a chunk: ``PageBuddy()``, the first page of each free block.

    :ivar at: Indexes in the chunk, ascending.
    :ivar order: What ``buddy_order()`` returns, garbage included.
    """

    at: npt.NDArray[np.intp]
    order: Words


def free_pages(chunk: Chunk, layout: Layout) -> FreePages | None:
    """
    Find the free pages. Cached.

    :return: ``None`` if the chunk has no struct pages, or the types don't tell what a free page looks like.
    """
    if chunk.words is None or layout.page is None:
        return None
    cached: FreePages | None = chunk.__dict__.get("_free_pages")
    if cached is None:
        index = _with_mapcount(chunk, layout, layout.page.buddy)
        index = index[chunk.state[index] == INITIALIZED]
        order = word_column(chunk, layout, layout.page.private_offset)[index].astype(np.uint64)
        cached = FreePages(index, order)
        chunk.__dict__["_free_pages"] = cached
    return cached


def whole_blocks(chunk: Chunk, layout: Layout, free: FreePages) -> npt.NDArray[np.bool_]:
    """Tell which free pages have an order that can be, and a pfn that is aligned to it."""
    good = free.order <= np.uint64(layout.max_order)
    order = np.where(good, free.order, np.uint64(0))
    pfn = free.at.astype(np.uint64) + np.uint64(chunk.start_pfn)
    result: npt.NDArray[np.bool_] = good & (pfn & ((np.uint64(1) << order) - np.uint64(1)) == 0)
    return result
