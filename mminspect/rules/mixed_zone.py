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
- error: pages with an impossible link, never initialised, or linked to a zone that doesn't span them without a
  guard.

``detail.runs`` lists ``[start, end, node, zone ID]`` of the whole block.

Example: Debian 5.10 on i386 with 1200 MiB: pageblock 0x36e00 holds the end of Normal and the start of HighMem
(a note). With two NUMA nodes of 515 and 509 MiB, block 0x20200 holds the node boundary.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, NOTE, WARNING, Finding, worst
from mminspect.memmap.chunk import INITIALIZED, Chunk, Run
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Commit, Match, Rule, WhatIs
from mminspect.rules.zone_span import grade, outside

# Zones that a message names. Garbage links to as many as there are pages.
MAX_NAMED = 8


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
        yield Match(block, block + nr_pages, (tuple(_join(inner)), severity))


def _join(runs: list[Run]) -> Iterator[tuple[int, int, int]]:
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


def describe(match: Match, memory: MemoryMap, what_is: WhatIs) -> Finding:
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
    return Finding(
        RULE.id,
        severity,
        match.start,
        match.end,
        node,
        zone.name if zone else None,
        f"pageblock links to {names}: {why}{hides}",
        {
            "runs": [[start, end, *layout.node_zone(link)] for start, end, link in runs],
            "hidden": hidden,
        },
    )


RULE = Rule(
    "mixed-zone",
    "pageblocks whose pages link to more than one zone",
    (
        "__pageblock_pfn_to_page",
        "pageblock_pfn_to_page",
        "isolate_migratepages_block",
        "isolate_freepages_block",
        "fast_isolate_around",
        "fast_isolate_freepages",
        "move_freepages_block",
    ),
    (
        Commit(
            "6e2b7044c199",
            "mm, compaction: make fast_isolate_freepages() stay within zone",
            "left the zone where it starts inside a pageblock (v5.12)",
        ),
        Commit(
            "be21b32afe47",
            "mm, compaction: fix fast_isolate_around() to stay within boundaries",
            "panic with several zones in one pageblock (v6.2)",
        ),
        Commit(
            "6b0868c820ff",
            "mm/compaction.c: correct zone boundary handling when resetting pageblock skip hints",
            "skip hints across a zone boundary (v5.1)",
        ),
    ),
    check,
    describe,
    join=False,
    documentation=__doc__,
)
