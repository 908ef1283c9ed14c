# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pageblocks whose pages link to more than one (node, zone).

``__pageblock_pfn_to_page()`` looks at the first and the last page of a pageblock. If both have the same zone, all
between are believed to have it. Compaction then isolates pages of another zone under the wrong lock.
``detail.hidden`` is true for such a block: first and last page agree, and an inner one doesn't.

A zone or node boundary inside a pageblock is legal where each page is spanned by the zone it links to: the
kernel clips its walks to the zone. The severity is that of the worst page in the block:

- note: every page is spanned by its own zone, or is a reserved page outside every span.
- warning: reserved pages of another zone's link, on SPARSEMEM; see rule zone-span.
- error: pages with an impossible link, never initialized, or linked to a zone that doesn't span them without a
  guard.

``detail.runs`` lists ``[start, end, node, zone ID]`` of the whole block.

Example: Debian 5.10 on i386 with 1200 MiB: pageblock 0x36e00 holds the end of Normal and the start of HighMem
(a note). With two NUMA nodes of 515 and 509 MiB, block 0x20200 holds the node boundary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from mminspect.findings import ERROR, NOTE, WARNING, worst
from mminspect.memmap.chunk import INITIALIZED, Chunk, Run
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range, merge, subtract
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation
from mminspect.rules.commits import commit
from mminspect.rules.zone_span import grade, outside

# Zones that a message names. Garbage links to as many as there are pages.
MAX_NAMED = 8
# Start, end and link of a part of a pageblock.
LinkedRange = tuple[int, int, int]


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find pageblocks in which the link changes. The key carries the block's runs and severity."""
    nr_pages = memory.layout.pageblock_nr_pages
    # Runs of one link, whatever the state.
    runs: list[Run] = []
    blocks: list[int] = []
    for run in chunk.runs:
        if not run.judged:
            continue
        previous = runs[-1] if runs else None
        runs.append(run)
        if previous is not None and previous.link != run.link:
            block = run.start & -nr_pages
            # Pages between the two may be unreadable; the block is mixed all the same.
            if previous.end > block and (not blocks or blocks[-1] != block):
                blocks.append(block)
    position = 0
    for block in blocks:
        start, end = max(block, chunk.start_pfn), min(block + nr_pages, chunk.end_pfn)
        while runs[position].end <= start:
            position += 1
        inner = []
        for run in runs[position:]:
            if run.start >= end:
                break
            inner.append(Run(max(run.start, start), min(run.end, end), run.link, run.state))
        severity = worst(NOTE, *(_grade(run, chunk, memory) for run in inner))
        yield Match(block, block + nr_pages, (tuple(_join(inner)), severity), inner[0].link)


def _join(runs: list[Run]) -> Iterator[LinkedRange]:
    """Join runs that differ in state only; yield (start, end, link)."""
    start, end, link = runs[0][:3]
    for run in runs[1:]:
        if run.start == end and run.link == link:
            end = run.end
            continue
        yield start, end, link
        start, end, link = run[:3]
    yield start, end, link


def _grade(run: Run, chunk: Chunk, memory: MemoryMap) -> str:
    zone = memory.zone(*memory.layout.node_zone(run.link))
    if zone is None:
        return ERROR
    if run.state != INITIALIZED:
        return ERROR if memory.zones_spanning(run.start, run.end) else WARNING
    result = NOTE
    for start, end in outside(run.start, run.end, zone.start_pfn, zone.end_pfn):
        reserved = bool(chunk.reserved(start, end).all())
        result = worst(result, grade(memory, bool(memory.zones_spanning(start, end)), reserved))
    return result


def _minority(runs: Sequence[LinkedRange], start: int, end: int) -> tuple[Range, ...]:
    """
    Get the pages that don't have the link that most of the block has. Unreadable pages count with the first ones.

    :return: Empty, which stands for all pages, where no link has more than half of the block.
    """
    pages: Counter[int] = Counter()
    for low, high, link in runs:
        pages[link] += high - low
    common, number = pages.most_common(1)[0]
    if number <= (end - start) // 2:
        return ()
    if runs[0][2] == common:
        return tuple(merge((low, high) for low, high, link in runs if link != common))
    return tuple(subtract([(start, end)], [(low, high) for low, high, link in runs if link == common]))


def _first_unspanned(runs: Sequence[LinkedRange], memory: MemoryMap) -> int | None:
    """Find the first page that the zone it links to doesn't span."""
    for start, end, link in runs:
        zone = memory.zone(*memory.layout.node_zone(link))
        if zone is None or not zone.spans(start):
            return start
        if zone.end_pfn < end:
            return zone.end_pfn
    return None


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """List the block's runs."""
    layout = memory.layout
    runs, severity = match.key
    links = list(dict.fromkeys(link for _, _, link in runs))
    hidden = runs[0][2] == runs[-1][2]
    names = ", ".join(memory.link_name(link) for link in links[:MAX_NAMED])
    if len(links) > MAX_NAMED:
        names += f" and {len(links) - MAX_NAMED} more"
    node, index = layout.node_zone(runs[0][2])
    zone = memory.zone(node, index)
    why = {
        NOTE: "a legal boundary: each page is spanned by its own zone, or reserved outside every zone",
        WARNING: "some pages link to a zone that doesn't span them, but are PG_reserved and on SPARSEMEM",
        ERROR: "some pages can't be used by their link",
    }[severity]
    hides = ""
    if hidden:
        hides = "; hidden: its first and last page agree, so __pageblock_pfn_to_page() takes it as one zone"
        others = [(start, end) for start, end, link in runs if link != runs[0][2]]
        if zone is not None and all(end <= zone.start_pfn or zone.end_pfn <= start for start, end in others):
            hides = f"; hidden: its first and last page agree; the others are outside {zone}, where no walk of it comes"
    return Violation(
        severity,
        f"pageblock links to {names}: {why}{hides}",
        {
            "runs": [[start, end, *layout.node_zone(link)] for start, end, link in runs],
            "hidden": hidden,
        },
        wrong=_minority(runs, match.start, match.end),
        judged_by=_first_unspanned(runs, memory),
    )


RULE = Rule(
    summary="pageblocks whose pages link to more than one zone",
    functions=(
        "__pageblock_pfn_to_page",
        "pageblock_pfn_to_page",
        "isolate_migratepages_block",
        "isolate_freepages_block",
        "fast_isolate_around",
        "fast_isolate_freepages",
        "move_freepages_block",
    ),
    commits=(
        commit("6e2b7044c199", "left the zone where it starts inside a pageblock"),
        commit("be21b32afe47", "panic with several zones in one pageblock"),
        commit("6b0868c820ff", "skip hints across a zone boundary"),
    ),
    checks=(PageCheck(check, describe, join=False),),
    # Another finding says which of the pages are wrong, and how.
    explains=9,
)
