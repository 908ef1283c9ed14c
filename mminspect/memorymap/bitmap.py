# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pageblock bitmaps: sizes, indexes and bits, computed as the kernel does.

The functions have the names that they have in ``mm/page_alloc.c`` and ``mm/mm_init.c``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mminspect.memorymap.layout import Layout
from mminspect.memorymap.zones import Zone


def _wrap(value: int, bits: int) -> int:
    return value & ((1 << bits) - 1)


def pageblock_start_pfn(layout: Layout, pfn: int) -> int:
    """Get the first pfn of the pageblock that a pfn is in."""
    return pfn & -layout.pageblock_nr_pages


def usemap_size(layout: Layout, zone: Zone) -> int:
    """
    Get the size of a FLATMEM zone's bitmap, as ``setup_usemap()`` allocates it.

    :return: Size in bits, a multiple of ``BITS_PER_LONG``.
    """
    nr_pages = layout.pageblock_nr_pages
    size = zone.spanned + (zone.start_pfn & (nr_pages - 1))
    blocks = -(-size // nr_pages)
    return -(-blocks * layout.bits_per_pageblock // layout.word_bits) * layout.word_bits


def section_usemap_size(layout: Layout) -> int:
    """
    Get the size of a section's bitmap (``SECTION_BLOCKFLAGS_BITS``).

    :return: Size in bits.
    """
    assert layout.pfn_section_shift is not None
    return (1 << (layout.pfn_section_shift - layout.pageblock_order)) * layout.bits_per_pageblock


def in_words(layout: Layout, bits: int) -> int:
    """Get the size of a bitmap as it is allocated, in bytes (``BITS_TO_LONGS()``)."""
    return -(-bits // layout.word_bits) * (layout.word_bits // 8)


def pfn_to_bitidx(layout: Layout, zone_start_pfn: int, pfn: int) -> int:
    """
    Get the index of a pfn's first bit in its bitmap.

    :param zone_start_pfn: ``page_zone(page)->zone_start_pfn``; not used with SPARSEMEM.
    :return: The ``unsigned long`` that the callers use. ``pfn_to_bitidx()`` returns an ``int`` (up to
        7.2 at least), so where pfn is below the zone, the index first wraps and is then cut to 32
        bits and sign-extended.
    """
    if layout.pfn_section_shift is not None:
        pfn &= (1 << layout.pfn_section_shift) - 1
    else:
        pfn = _wrap(pfn - pageblock_start_pfn(layout, zone_start_pfn), layout.word_bits)
    index = _wrap((pfn >> layout.pageblock_order) * layout.bits_per_pageblock, 32)
    if index >> 31:
        index -= 1 << 32
    return _wrap(index, layout.word_bits)


def bitmap_word_address(layout: Layout, bitmap: int, bitidx: int) -> int:
    """
    Get the address of the word that ``set_pfnblock_flags_mask()`` changes.

    :param bitmap: Address of the bitmap.
    :param bitidx: What :func:`pfn_to_bitidx` returned.
    """
    return _wrap(bitmap + bitidx // layout.word_bits * (layout.word_bits // 8), layout.word_bits)


def pageblock_bits(layout: Layout, word: int, bitidx: int) -> int:
    """
    Get the bits of a pageblock from its bitmap word, migratetype lowest.

    :param word: The word at :func:`bitmap_word_address`.
    :param bitidx: What :func:`pfn_to_bitidx` returned.
    """
    width = layout.bits_per_pageblock
    bit = bitidx % layout.word_bits
    # Since Linux kernel commit 535b81e20921 ("mm/page_alloc.c: remove unnecessary end_bitidx for
    # [set|get]_pfnblock_flags_mask()") (in v5.9), block 0 is at the bottom of a word. Before, it was at
    # the top, and so were the flags in a block: migratetype above skip.
    if not layout.bits_from_top:
        return (word >> bit) & ((1 << width) - 1)
    field = (word >> (layout.word_bits - bit - width)) & ((1 << width) - 1)
    return (field >> 1) | (field & 1) << 3


def all_pageblock_bits(layout: Layout, data: bytes) -> npt.NDArray[np.uint8]:
    """
    Get the bits of every pageblock in a bitmap, as :func:`pageblock_bits` does for one.

    :param data: The bitmap, whole words.
    """
    width = layout.bits_per_pageblock
    words = np.frombuffer(data, layout.word).astype(np.uint64)
    shifts = np.arange(0, layout.word_bits, width, dtype=np.uint64)
    if layout.bits_from_top:
        shifts = shifts[::-1]
    stored: npt.NDArray[np.uint8] = ((words[:, np.newaxis] >> shifts) & np.uint64((1 << width) - 1)).astype(np.uint8)
    return fields(layout, stored).ravel()


def fields(layout: Layout, stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Put the bits of pageblocks, as they are stored, into the order of :func:`pageblock_bits`."""
    if not layout.bits_from_top:
        return stored
    result: npt.NDArray[np.uint8] = ((stored >> 1) | (stored & 1) << 3).astype(np.uint8)
    return result
