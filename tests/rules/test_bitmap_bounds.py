# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule bitmap-bounds on hand-made maps: pageblocks of 8 pages, 4 bits each, words of 32 bits."""

from __future__ import annotations

import dataclasses

import pytest

from mminspect.memmap.chunk import DEFERRED, ZEROED
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import Zone
from tests.kit.handmade import FLAT, SPARSE, Part, chunk, cut, found, memory_map, scan, zone

RULE = "bitmap-bounds"
BITMAP = 0xF0001000
# 8 blocks of 4 bits: the bitmap of each zone is one word.
FLATMEM = memory_map(
    zone(0, 1, 63, bitmap=BITMAP), zone(1, 64, 64, bitmap=BITMAP + 0x100), zone(2, 128, 0, bitmap=0), layout=FLAT
)
SPARSEMEM = memory_map(zone(1, 0, 64))


def test_page_in_its_zone_is_in_bounds() -> None:
    assert found(FLATMEM, Part(63, zone=0), start=1, rule=RULE) == []


def test_zone_that_starts_inside_a_block_counts_from_the_blocks_start() -> None:
    assert found(FLATMEM, Part(64, zone=0), start=0, rule=RULE) == []


def test_page_behind_the_bitmap_is_an_error_with_index_limit_and_address() -> None:
    (finding,) = scan(FLATMEM, chunk(FLATMEM, 72, Part(20, zone=0)), rule=RULE)
    assert (finding.severity, finding.start_pfn, finding.end_pfn) == ("error", 72, 92)
    detail = finding.detail
    assert (detail["index"], detail["last_index"], detail["limit"]) == (36, 44, 32)
    assert (detail["address"], detail["last_address"]) == (BITMAP + 4, BITMAP + 4)
    assert (detail["outside"], detail["bitmap"], detail["linked"]) == (0, BITMAP, [0, 0])
    assert (finding.node, finding.zone) == (0, "DMA")


def test_bytes_outside_count_from_the_end_of_the_bitmap() -> None:
    (finding,) = scan(FLATMEM, chunk(FLATMEM, 0xA178 // 8 * 8, Part(8, zone=0)), rule=RULE)
    index = 0xA178 // 8 * 4
    assert finding.detail["index"] == index
    assert finding.detail["outside"] == index // 32 * 4 - 4


def test_run_is_cut_where_the_bitmap_ends() -> None:
    assert found(FLATMEM, Part(16, zone=0), start=56, rule=RULE) == [("error", 64, 72)]


def test_single_page_behind_the_bitmap_is_out_of_bounds() -> None:
    assert found(FLATMEM, Part(1, zone=0), start=63, rule=RULE) == []
    assert found(FLATMEM, Part(1, zone=0), start=64, rule=RULE) == [("error", 64, 65)]


def test_rounding_to_words_gives_room_behind_the_zone() -> None:
    """40 pages are 5 blocks, 20 bits; setup_usemap() allocates 32."""
    memory = memory_map(zone(0, 0, 40, bitmap=BITMAP), layout=FLAT)
    assert found(memory, Part(40, zone=0), start=40, rule=RULE) == [("error", 64, 80)]


def test_pfn_below_the_zone_wraps() -> None:
    (finding,) = scan(FLATMEM, chunk(FLATMEM, 56, Part(16, zone=1)), rule=RULE)
    assert (finding.start_pfn, finding.end_pfn) == (56, 64)
    # ((56 - 64) mod 2^32 >> 3) * 4, as an int.
    assert finding.detail["index"] == ((1 << 32) - 8) // 8 * 4
    assert finding.detail["limit"] == 32


def test_first_block_of_a_zone_is_in_bounds_before_its_start() -> None:
    memory = memory_map(zone(1, 68, 60, bitmap=BITMAP), layout=FLAT)
    assert found(memory, Part(16, zone=1), start=56, rule=RULE) == [("error", 56, 64)]


def test_pages_below_and_behind_are_two_findings() -> None:
    assert found(FLATMEM, Part(96, zone=1), start=56, rule=RULE) == [("error", 56, 64), ("error", 128, 152)]


def test_zone_without_bitmap_is_an_error_that_says_missing() -> None:
    (finding,) = scan(FLATMEM, chunk(FLATMEM, 8, Part(2, zone=2)), rule=RULE)
    assert (finding.severity, finding.start_pfn, finding.end_pfn) == ("error", 8, 10)
    assert finding.detail == {"missing": True, "linked": [0, 2]}


def test_phantom_zone_is_followed_as_the_kernel_does() -> None:
    phantom = Zone(0, 3, "id 3", 0, 8, 0, 0, False, 0, BITMAP)
    memory = memory_map(zone(0, 0, 64, bitmap=BITMAP), layout=FLAT, phantom_zones={(0, 3): phantom})
    assert found(memory, Part(80, zone=3), rule=RULE) == [("error", 64, 80)]


def test_phantom_zone_that_can_not_be_read_is_not_judged() -> None:
    assert found(FLATMEM, Part(80, zone=3), rule=RULE) == []


def test_zeroed_pages_are_judged_and_deferred_ones_not() -> None:
    assert found(FLATMEM, Part(8, state=ZEROED), start=80, rule=RULE) == [("error", 80, 88)]
    assert found(FLATMEM, Part(8, state=DEFERRED), start=80, rule=RULE) == []


def test_run_across_chunks_is_one_finding() -> None:
    whole = chunk(FLATMEM, 72, Part(24, zone=0))
    assert [(f.start_pfn, f.end_pfn) for f in scan(FLATMEM, *cut(whole, 8), rule=RULE)] == [(72, 96)]


def test_sparsemem_section_with_bitmap_is_always_in_bounds() -> None:
    assert found(SPARSEMEM, Part(64, zone=2), rule=RULE) == []


def test_sparsemem_section_without_bitmap_is_an_error() -> None:
    section = Section(0, ((0, 64),), 0, 0)
    (finding,) = scan(SPARSEMEM, chunk(SPARSEMEM, 0, Part(64, zone=1), section=section), rule=RULE)
    assert (finding.severity, finding.start_pfn, finding.end_pfn) == ("error", 0, 64)
    assert finding.detail == {"missing": True, "section": 0}


def test_sections_without_bitmap_are_a_finding_each() -> None:
    chunks = [
        chunk(SPARSEMEM, nr * 64, Part(64, zone=1), section=Section(nr, ((nr * 64, nr * 64 + 64),), 0, 0))
        for nr in (0, 1)
    ]
    found_in: list[tuple[int, int]] = [(f.start_pfn, f.end_pfn) for f in scan(SPARSEMEM, *chunks, rule=RULE)]
    assert found_in == [(0, 64), (64, 128)]


@pytest.mark.parametrize(("bits", "start"), [(4, 64), (8, 32)])
def test_bits_of_a_pageblock_count(bits: int, start: int) -> None:
    layout = dataclasses.replace(FLAT, bits_per_pageblock=bits)
    memory = memory_map(zone(0, 0, 8, bitmap=BITMAP), layout=layout)
    assert found(memory, Part(80, zone=0), rule=RULE) == [("error", start, 80)]


def test_64_bit_words_round_more() -> None:
    layout = dataclasses.replace(FLAT, word_bits=64, flags=SPARSE.flags)
    memory = memory_map(zone(0, 0, 8, bitmap=BITMAP), layout=layout)
    assert found(memory, Part(160, zone=0), rule=RULE) == [("error", 128, 160)]
