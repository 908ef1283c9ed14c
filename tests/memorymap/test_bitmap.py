# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pageblock bitmaps: the functions agree with the kernel's C, transcribed with C's own integers."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import Layout
from tests.kit.handmade import FLAT, SPARSE, zone

# Migratetypes take three bits, PB_migrate_skip the fourth.
PB_migrate_end = 2
PB_migrate_skip = 3


class C:
    """The types and macros of a kernel."""

    def __init__(self, layout: Layout) -> None:
        self.BITS_PER_LONG = layout.word_bits
        self.unsigned_long: Any = ctypes.c_uint64 if layout.word_bits == 64 else ctypes.c_uint32
        self.long: Any = ctypes.c_int64 if layout.word_bits == 64 else ctypes.c_int32
        self.pageblock_order = layout.pageblock_order
        self.pageblock_nr_pages = self.unsigned_long(1 << layout.pageblock_order).value
        self.NR_PAGEBLOCK_BITS = layout.bits_per_pageblock
        shift = layout.pfn_section_shift
        self.PAGES_PER_SECTION = None if shift is None else self.unsigned_long(1 << shift).value

    def pfn_to_bitidx(self, zone_start_pfn: int, pfn: int) -> int:
        """``static inline int pfn_to_bitidx(const struct page *page, unsigned long pfn)``, as an unsigned long."""
        value = self.unsigned_long(pfn)
        if self.PAGES_PER_SECTION is not None:
            value = self.unsigned_long(value.value & (self.PAGES_PER_SECTION - 1))
        else:
            round_down = self.unsigned_long(zone_start_pfn & ~(self.pageblock_nr_pages - 1))
            value = self.unsigned_long(value.value - round_down.value)
        product = self.unsigned_long((value.value >> self.pageblock_order) * self.NR_PAGEBLOCK_BITS)
        result = ctypes.c_int(product.value)
        return int(self.unsigned_long(self.long(result.value).value).value)

    def usemap_size(self, zone_start_pfn: int, zonesize: int) -> int:
        """``static unsigned long __init usemap_size(unsigned long zone_start_pfn, unsigned long zonesize)``."""

        def roundup(x: int, y: int) -> int:
            return ((x + (y - 1)) // y) * y

        zonesize = self.unsigned_long(zonesize + (zone_start_pfn & (self.pageblock_nr_pages - 1))).value
        usemapsize = roundup(zonesize, self.pageblock_nr_pages)
        usemapsize = usemapsize >> self.pageblock_order
        usemapsize *= self.NR_PAGEBLOCK_BITS
        usemapsize = roundup(usemapsize, self.BITS_PER_LONG)
        return usemapsize // 8

    def word_address(self, base: int, bitidx: int) -> int:
        """``&bitmap[bitidx / BITS_PER_LONG]``."""
        word_bitidx = self.unsigned_long(bitidx // self.BITS_PER_LONG)
        offset = self.unsigned_long(word_bitidx.value * (self.BITS_PER_LONG // 8))
        return int(self.unsigned_long(base + offset.value).value)

    def get_flags_before_5_9(self, word: int, bitidx: int, end_bitidx: int, mask: int) -> int:
        """``__get_pfnblock_flags_mask()`` up to 5.8."""
        bitidx &= self.BITS_PER_LONG - 1
        bitidx += end_bitidx
        return int(self.unsigned_long(word >> (self.BITS_PER_LONG - bitidx - 1)).value & mask)

    def get_flags(self, word: int, bitidx: int, mask: int) -> int:
        """``__get_pfnblock_flags_mask()`` since 5.9."""
        bitidx &= self.BITS_PER_LONG - 1
        return int(self.unsigned_long(word >> bitidx).value & mask)


@st.composite
def layouts(draw: Any) -> Layout:
    """Kernels of 32 and 64 bits, FLATMEM and SPARSEMEM."""
    base = draw(st.sampled_from([FLAT, SPARSE]))
    order = draw(st.integers(1, 13))
    section = None if base.flatmem else draw(st.integers(order, order + 8))
    return dataclasses.replace(
        base,
        word_bits=draw(st.sampled_from([32, 64])),
        pageblock_order=order,
        pfn_section_shift=section,
        bits_per_pageblock=draw(st.sampled_from([4, 8])),
        bits_from_top=draw(st.booleans()),
    )


PFNS = st.one_of(st.integers(0, (1 << 32) - 1), st.integers(0, 1 << 20))


@given(layouts(), PFNS, PFNS)
def test_index_is_the_kernels_wrap_truncation_and_all(layout: Layout, start: int, pfn: int) -> None:
    assert bitmap.pfn_to_bitidx(layout, start, pfn) == C(layout).pfn_to_bitidx(start, pfn)


@given(layouts(), st.integers(0, (1 << 52) - 1), st.integers(0, (1 << 52) - 1))
def test_index_is_the_kernels_for_pfns_of_64_bits(layout: Layout, start: int, pfn: int) -> None:
    layout = dataclasses.replace(layout, word_bits=64)
    assert bitmap.pfn_to_bitidx(layout, start, pfn) == C(layout).pfn_to_bitidx(start, pfn)


@given(layouts(), st.integers(0, 1 << 20), st.integers(0, 1 << 22))
def test_size_of_a_zones_bitmap_is_the_kernels(layout: Layout, start: int, spanned: int) -> None:
    assert bitmap.usemap_size(layout, zone(0, start, spanned)) == 8 * C(layout).usemap_size(start, spanned)


@given(layouts(), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_address_of_the_word_is_the_kernels(layout: Layout, base: int, bitidx: int) -> None:
    wrap = (1 << layout.word_bits) - 1
    address = bitmap.bitmap_word_address(layout, base & wrap, bitidx & wrap)
    assert address == C(layout).word_address(base & wrap, bitidx & wrap)


@given(layouts(), st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 16))
def test_bits_of_a_block_are_the_kernels_in_both_orders(layout: Layout, word: int, block: int) -> None:
    c = C(layout)
    word &= (1 << layout.word_bits) - 1
    bitidx = block * layout.bits_per_pageblock
    if layout.bits_from_top:
        # There were four bits until isolation got its own in 6.17.
        layout = dataclasses.replace(layout, bits_per_pageblock=4)
        bitidx = block * 4
        migratetype = c.get_flags_before_5_9(word, bitidx, PB_migrate_end, 7)
        skip = c.get_flags_before_5_9(word, bitidx, PB_migrate_skip, 1)
    else:
        migratetype = c.get_flags(word, bitidx, 7)
        skip = c.get_flags(word, bitidx + PB_migrate_skip, 1)
    bits = bitmap.pageblock_bits(layout, word, bitidx)
    assert (bits & 7, bits >> 3 & 1) == (migratetype, skip)


@given(layouts(), st.integers(0, 1 << 30))
def test_index_of_sparsemem_always_fits_the_sections_bitmap(layout: Layout, pfn: int) -> None:
    layout = dataclasses.replace(SPARSE, pageblock_order=layout.pageblock_order, pfn_section_shift=16)
    index = bitmap.pfn_to_bitidx(layout, 0, pfn)
    assert index + layout.bits_per_pageblock <= bitmap.section_usemap_size(layout)


@pytest.mark.parametrize(
    ("bits", "order", "size"),
    # x86-64: 32 bytes with 4 bits, 64 bytes with 8.
    [(4, 9, 256), (8, 9, 512), (4, 10, 128)],
)
def test_size_of_a_sections_bitmap(bits: int, order: int, size: int) -> None:
    layout = dataclasses.replace(SPARSE, bits_per_pageblock=bits, pageblock_order=order, pfn_section_shift=15)
    assert bitmap.section_usemap_size(layout) == size


def test_index_of_the_i386_hole() -> None:
    layout = dataclasses.replace(FLAT, pageblock_order=9)
    assert bitmap.pfn_to_bitidx(layout, 1, 0xA17B) == 320
    assert bitmap.usemap_size(layout, zone(0, 1, 4095)) == 32
    assert bitmap.pageblock_start_pfn(layout, 0xA17B) == 0xA000
