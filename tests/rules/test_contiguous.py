# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule contiguous on hand-made maps: pageblocks have 8 pages."""

from __future__ import annotations

import pytest

from mminspect.memmap.chunk import DEFERRED, EXCLUDED, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from tests.kit.handmade import Part, chunk, memory_map, scan, zone

RULE = "contiguous"


def marked(start: int = 4, spanned: int = 24) -> MemoryMap:
    """Make a map of a contiguous zone, and another behind it that isn't."""
    return memory_map(zone(1, start, spanned, contiguous=True), zone(2, start + spanned, 8))


def blocks(memory: MemoryMap, *chunks: Chunk) -> list[list[int]]:
    """Get the refused blocks."""
    findings = scan(memory, *chunks, rule=RULE)
    assert len(findings) <= 1
    for finding in findings:
        assert (finding.severity, finding.node, finding.zone) == ("error", 0, "DMA32")
        assert (finding.start_pfn, finding.end_pfn) == (memory.zones[1].start_pfn, memory.zones[1].end_pfn)
    return [block for finding in findings for block in finding.detail["blocks"]]


def test_zone_that_is_contiguous_may_say_so() -> None:
    memory = marked()
    assert blocks(memory, chunk(memory, 4, Part(24, zone=1), Part(4, zone=2))) == []


def test_blocks_are_clipped_to_the_zone() -> None:
    memory = marked()
    whole = chunk(memory, 0, Part(4, zone=2), Part(24, zone=1), Part(4, zone=2))
    assert blocks(memory, whole) == []


def test_first_page_of_another_zone_is_refused() -> None:
    memory = marked()
    whole = chunk(memory, 0, Part(4, zone=1), Part(4, zone=1), Part(1, zone=2), Part(19, zone=1))
    assert blocks(memory, whole) == [[8, 16]]


def test_last_page_of_another_zone_is_refused() -> None:
    memory = marked()
    whole = chunk(memory, 0, Part(15, zone=1), Part(1, zone=2), Part(12, zone=1))
    assert blocks(memory, whole) == [[8, 16]]


def test_last_block_is_judged_by_the_last_page_of_the_zone() -> None:
    memory = marked()
    assert blocks(memory, chunk(memory, 0, Part(27, zone=1), Part(5, zone=2))) == [[24, 28]]


def test_first_block_is_judged_by_the_first_page_of_the_zone() -> None:
    memory = marked()
    assert blocks(memory, chunk(memory, 0, Part(5, zone=2), Part(27, zone=1))) == [[4, 8]]


def test_inner_pages_are_not_looked_at() -> None:
    memory = marked()
    assert blocks(memory, chunk(memory, 0, Part(9, zone=1), Part(6, zone=2), Part(17, zone=1))) == []


def test_block_of_another_zone_that_agrees_with_itself_is_refused() -> None:
    memory = marked()
    assert blocks(memory, chunk(memory, 0, Part(8, zone=1), Part(8, zone=2), Part(16, zone=1))) == [[8, 16]]


def test_every_refused_block_is_listed() -> None:
    memory = marked()
    whole = chunk(memory, 0, Part(8, zone=1), Part(16, zone=2), Part(8, zone=1))
    assert blocks(memory, whole) == [[8, 16], [16, 24]]


def test_zone_that_is_not_marked_may_have_holes() -> None:
    memory = memory_map(zone(1, 0, 64))
    assert blocks(memory, chunk(memory, 0, Part(8, zone=2))) == []


def test_hole_between_online_ranges_is_refused() -> None:
    memory = marked(0, 32)
    chunks = (chunk(memory, 0, Part(8, zone=1)), chunk(memory, 24, Part(8, zone=1)))
    assert blocks(memory, *chunks) == [[8, 16], [16, 24]]


def test_hole_at_the_start_and_end_of_a_zone_is_refused() -> None:
    memory = marked(0, 32)
    assert blocks(memory, chunk(memory, 8, Part(8, zone=1))) == [[0, 8], [16, 24], [24, 32]]


def test_zone_without_online_pages_is_refused_as_a_whole() -> None:
    memory = marked(32, 12)
    assert blocks(memory, chunk(memory, 0, Part(8, zone=1))) == [[32, 40], [40, 44]]


def test_block_that_is_online_in_part_is_refused_once() -> None:
    memory = marked(0, 24)
    chunks = (chunk(memory, 0, Part(12, zone=1)), chunk(memory, 16, Part(8, zone=1)))
    assert blocks(memory, *chunks) == [[8, 16]]


@pytest.mark.parametrize("state", [EXCLUDED, DEFERRED])
@pytest.mark.parametrize("at", [8, 15])
def test_block_whose_first_or_last_page_means_nothing_is_not_judged(state: int, at: int) -> None:
    memory = marked(0, 24)
    whole = chunk(memory, 0, Part(at, zone=1), Part(1, zone=0, state=state), Part(23 - at, zone=1))
    assert blocks(memory, whole) == []


def test_same_zone_of_another_node_is_another_zone() -> None:
    memory = memory_map(zone(1, 0, 16, contiguous=True), zone(1, 16, 8, node=1))
    assert blocks(memory, chunk(memory, 0, Part(8, 0, 1), Part(8, 1, 1), Part(8, 1, 1))) == [[8, 16]]


def test_empty_zone_that_is_marked_is_no_finding() -> None:
    """set_zone_contiguous() marks a zone of no blocks, as hot removal leaves it."""
    memory = memory_map(zone(1, 0, 16), zone(2, 4, 0, contiguous=True))
    assert scan(memory, chunk(memory, 0, Part(16, zone=1)), rule=RULE) == []


def test_finding_is_about_the_refused_blocks_and_judged_by_the_first() -> None:
    memory = marked()
    (finding,) = scan(memory, chunk(memory, 4, Part(12, zone=1), Part(8, zone=2), Part(4, zone=1)), rule=RULE)
    assert finding.named == ((16, 24),)
    assert [pfn for pfn in range(32) if finding.covers(pfn)] == list(range(16, 24))
    assert (finding.of_zone, finding.judged_by) == (False, 16)


def test_first_page_in_an_absent_subsection_is_refused() -> None:
    """Only the first page of a block counts: for the last one, the kernel asks pfn_valid()."""
    memory = marked(0, 32)
    section = Section(0, ((0, 64),), 0, 0x1000, ("SECTION_IS_EARLY",), b"", ((8, 16), (20, 24)))
    whole = chunk(memory, 0, Part(32, zone=1), section=section)
    assert blocks(memory, whole) == [[8, 16]]


def test_span_of_all_addresses_is_no_work() -> None:
    # 2^40 pages would be 2^37 blocks.
    memory = marked(4, 1 << 40)
    (finding,) = scan(memory, chunk(memory, 4, Part(20, zone=1)), rule=RULE)
    assert finding.message.startswith(
        "node 0 zone DMA32 is marked contiguous, but __pageblock_pfn_to_page() would refuse"
    )
    # The chunk has the zone's first three blocks.
    refused = (4 + (1 << 40) + 7) // 8 - 3
    assert f"__pageblock_pfn_to_page() would refuse {refused} of its pageblocks, the first at 0x18:" in finding.message
    assert finding.detail["blocks"][:2] == [[24, 32], [32, 40]]
    assert len(finding.detail["blocks"]) == 10_000
