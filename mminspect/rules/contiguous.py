# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Zones marked contiguous over a pageblock that ``__pageblock_pfn_to_page()`` would refuse.

``set_zone_contiguous()`` sets ``zone->contiguous`` when every pageblock of the zone, clipped to it, has an online first
page of that zone and a last page of the same zone. From then on ``pageblock_pfn_to_page()`` asks nothing and
returns the page. If a block is a hole, or its first page belongs elsewhere, compaction walks struct pages that
may not exist, or are not this zone's. Since Linux 5.12, a first page in an absent subsection counts as offline, also in
memory of the boot: pfn_to_online_page() asks pfn_section_valid().

A note on the method: pages inside a block are not part of this rule, as the kernel doesn't look at them; rule
mixed-zone does. Blocks whose first or last struct page can't be read are not judged.

``detail.blocks`` lists the refused blocks, ``[start, end]`` in pfns, clipped to the zone; of a zone whose span is
damaged, the first 10,000.

Always an error.

Example: a dump in which ``zone->contiguous`` of a zone with a hole was set by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from mminspect.findings import ERROR, ZONE
from mminspect.memmap.chunk import DEFERRED, OFFLINE, Chunk
from mminspect.memorymap.layout import CONTIGUOUS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import merge
from mminspect.memorymap.zones import Zone
from mminspect.rules.base import KeyCheck, Match, Rule, Violation
from mminspect.rules.commits import commit

# A span of all addresses has millions of blocks. That of 4 TiB with a hole of 20 GB is listed whole.
MAX_LISTED = 10_000


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find refused blocks of contiguous zones in a chunk."""
    for zone in memory.contiguous_zones:
        if zone.start_pfn < chunk.end_pfn and chunk.start_pfn < zone.end_pfn:
            yield from _check_zone(chunk, memory, zone)


def _check_zone(chunk: Chunk, memory: MemoryMap, zone: Zone) -> Iterator[Match]:
    layout = memory.layout
    nr_pages = layout.pageblock_nr_pages
    link = layout.link(zone.node, zone.index)
    low, high = max(zone.start_pfn, chunk.start_pfn), min(zone.end_pfn, chunk.end_pfn)
    runs = chunk.runs
    # Whole blocks of nothing but pages of the zone, as nearly every chunk is.
    absent = chunk.section.absent
    if len(runs) == 1 and runs[0].link == link and runs[0].state != OFFLINE and not absent:
        first_block = max(low & -nr_pages, zone.start_pfn)
        last_block = min(-(-high // nr_pages) * nr_pages, zone.end_pfn)
        if chunk.start_pfn <= first_block and last_block <= chunk.end_pfn:
            return
    starts = np.arange(low & -nr_pages, high, nr_pages)
    ends = np.minimum(starts + nr_pages, zone.end_pfn)
    starts = np.maximum(starts, zone.start_pfn)
    # The online memory may begin or end inside a block; then the kernel refuses it.
    whole = (starts >= chunk.start_pfn) & (ends <= chunk.end_pfn)
    first = np.clip(starts, chunk.start_pfn, chunk.end_pfn - 1) - chunk.start_pfn
    last = np.clip(ends - 1, chunk.start_pfn, chunk.end_pfn - 1) - chunk.start_pfn
    first_state, last_state = chunk.state[first], chunk.state[last]
    offline = (first_state == OFFLINE) | (last_state == OFFLINE)
    for start, end in absent:
        # The kernel looks at the first page in this way, and not at the last.
        offline |= (starts >= start) & (starts < end)
    judged = offline | ((first_state < DEFERRED) & (last_state < DEFERRED))
    good = ~offline & (chunk.link[first] == link) & (chunk.link[last] == link)
    for index in np.flatnonzero(judged & ~(good & whole)).tolist():
        yield Match(int(starts[index]), int(ends[index]), (zone.node, zone.index))


def check_gap(start: int, end: int, memory: MemoryMap) -> Iterator[Match]:
    """Find the parts of contiguous zones in a range without online pages."""
    nr_pages = memory.layout.pageblock_nr_pages
    for zone in memory.contiguous_zones:
        low, high = max(start, zone.start_pfn), min(end, zone.end_pfn)
        if low >= high:
            continue
        first = max(low & -nr_pages, zone.start_pfn)
        last = min(-(-high // nr_pages) * nr_pages, zone.end_pfn)
        yield Match(first, last, (zone.node, zone.index))


def _blocks(ranges: Sequence[tuple[int, int]], nr_pages: int) -> Iterator[tuple[int, int]]:
    """Split ranges into pageblocks."""
    for start, end in ranges:
        while start < end:
            block_end = min(end, (start // nr_pages + 1) * nr_pages)
            yield start, block_end
            start = block_end


def describe(key: Any, matches: Sequence[Match], memory: MemoryMap) -> Violation:
    """List the refused blocks of a zone."""
    zone = memory.zone(*key)
    assert zone is not None
    nr_pages = memory.layout.pageblock_nr_pages
    # A block between two online ranges is matched by both.
    ranges = merge((match.start, match.end) for match in matches)
    count = sum(-(-end // nr_pages) - start // nr_pages for start, end in ranges)
    blocks = list(islice(_blocks(ranges, nr_pages), MAX_LISTED))
    return Violation(
        ERROR,
        f"{zone} is marked contiguous, but __pageblock_pfn_to_page() would refuse {count} of its pageblocks, "
        f"the first at {blocks[0][0]:#x}: compaction walks them unchecked",
        {"blocks": [list(block) for block in blocks]},
        of=zone,
        named=tuple(blocks),
        judged_by=blocks[0][0],
    )


RULE = Rule(
    summary="zones marked contiguous that are not",
    functions=(
        "pageblock_pfn_to_page",
        "__pageblock_pfn_to_page",
        "set_zone_contiguous",
        "isolate_migratepages",
        "isolate_freepages",
    ),
    commits=(commit("859a85ddf90e", "from then on a block is valid as a whole"),),
    about=ZONE,
    needs=(CONTIGUOUS,),
    checks=(KeyCheck(check, check_gap, describe),),
    # The flag is wrong. What is wrong with the pages themselves, other rules say.
    explains=None,
)
