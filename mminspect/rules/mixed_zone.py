# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pageblocks whose pages link to more than one (node, zone).

``__pageblock_pfn_to_page()`` looks at the first and the last page of a pageblock. If both have the same zone, all
between are believed to have it. Compaction then isolates pages of another zone under the wrong lock.
``detail.hidden`` is true for such a block: first and last page agree, and an inner one doesn't.

A zone or node boundary inside a pageblock is legal. Whether it does harm depends on who walks there: the walkers of
every zone that spans the block, whether they expect the other zone's pages or not. Where nodes interleave, a zone spans
pages of another; ``move_freepages_block()`` asks whether its zone *spans* the block's last pfn, since Linux 6.10 also
the first, and then moves all free pages between to the zone's lists, under the zone's lock.

The severity is that of the worst page in the block by its link:

- note: every page is spanned by its own zone, or is a reserved page outside every span.
- warning: reserved pages of another zone's link, on SPARSEMEM; see rule zone-span.
- error: pages with an impossible link, not initialized, or linked to a zone that doesn't span them without a
  guard.

and of what the zones that span the block do with each other's pages, as far as these can be free:

- error: a function takes, moves or isolates them, and nothing but a VM_BUG_ON_PAGE() guards it.
- warning: a check at run time stops it; the message names it.

``detail.severity_by_rule`` is then the severity by the links. A page can be free unless it is PG_reserved and not
System RAM: PG_reserved alone doesn't prove it, as init memory, the initrd, the crash kernel, EFI boot services and
what is initialized late are freed afterwards. Where ``/proc/iomem`` isn't known, reserved pages count.

``detail.runs`` lists ``[start, end, node, zone ID]`` of the whole block; ``detail.reserved`` says whether all pages
that make it no mere boundary are PG_reserved. ``detail.hardware`` is ``one bit`` if a single page makes it so that
isn't PG_reserved, and its links differ from those on both sides of it in one bit.

Example: Debian 5.10 on i386 with 1200 MiB: pageblock 0x36e00 holds the end of Normal and the start of HighMem
(a note). With two NUMA nodes of 515 and 509 MiB, block 0x20200 holds the node boundary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from mminspect.findings import BLOCK, ERROR, NOTE, SEVERITIES, WARNING
from mminspect.memmap.chunk import UNINITIALIZED_KINDS, Chunk, Run
from mminspect.memorymap.bits import looks_like_hardware, one_bit
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range, merge, subtract
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation
from mminspect.rules.commits import commit
from mminspect.rules.zone_span import grade, outside

# Zones that a message names. Garbage links to as many as there are pages.
MAX_NAMED = 8
MAX_REASONS = 2
# Start, end and link of a part of a pageblock.
LinkedRange = tuple[int, int, int]
# A severity, what of the pages decides on it, and whether these are PG_reserved.
Grade = tuple[str, str, bool]
OWN_ZONE = "each page is spanned by its own zone"


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find pageblocks in which the link changes. The key carries the block's runs, severity and reasons."""
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
        grades = [grade for run in inner for grade in _grades(run, chunk, memory)] or [(NOTE, OWN_ZONE, False)]
        severity = max((grade[0] for grade in grades), key=SEVERITIES.index)
        reasons = tuple(dict.fromkeys(why for graded, why, _ in grades if graded == severity))
        reserved = all(reserved for graded, _, reserved in grades if graded == severity)
        yield Match(block, block + nr_pages, (tuple(_join(inner)), severity, reasons, reserved), inner[0].link)


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


def _grades(run: Run, chunk: Chunk, memory: MemoryMap) -> Iterator[Grade]:
    """Grade the pages of a run that their link is wrong for."""
    zone = memory.zone(*memory.layout.node_zone(run.link))
    kind = UNINITIALIZED_KINDS.get(run.state)
    if zone is None:
        reserved = kind is None and bool(chunk.reserved(run.start, run.end).all())
        yield ERROR, f"some link to {memory.link_name(run.link)}, which doesn't exist", reserved
    elif kind is not None and memory.zones_spanning(run.start, run.end):
        yield ERROR, f"some are not initialized ({kind})", False
    elif kind is not None:
        yield WARNING, f"some are not initialized ({kind}), outside every zone", False
    else:
        for start, end in outside(run.start, run.end, zone.start_pfn, zone.end_pfn):
            reserved = bool(chunk.reserved(start, end).all())
            severity, why = grade(memory, bool(memory.zones_spanning(start, end)), reserved)
            yield severity, f"some are outside {zone}, which they link to: {why}", reserved


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


def _flipped(runs: Sequence[LinkedRange], memory: MemoryMap) -> tuple[str | None, int]:
    """
    Tell whether the block is mixed because of one page whose flags differ in one bit from its neighbors'.

    :return: In how much, and the pfn.
    """
    if len(runs) != 3 or runs[0][2] != runs[2][2] or runs[1][1] - runs[1][0] != 1:
        return None, 0
    flags_of = memory.layout.flags_of_link
    return one_bit(flags_of(runs[1][2]), flags_of(runs[0][2])), runs[1][0]


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """List the block's runs."""
    layout = memory.layout
    runs, severity, reasons, reserved = match.key
    links = list(dict.fromkeys(link for _, _, link in runs))
    hidden = runs[0][2] == runs[-1][2]
    names = ", ".join(memory.link_name(link) for link in links[:MAX_NAMED])
    if len(links) > MAX_NAMED:
        names += f" and {len(links) - MAX_NAMED} more"
    node, index = layout.node_zone(runs[0][2])
    zone = memory.zone(node, index)
    why = "; ".join(reasons[:MAX_REASONS])
    if len(reasons) > MAX_REASONS:
        why += f"; and {len(reasons) - MAX_REASONS} reasons more"
    hides = ""
    if hidden:
        hides = "; hidden: its first and last page agree, so __pageblock_pfn_to_page() takes it as one zone"
        others = [(start, end) for start, end, link in runs if link != runs[0][2]]
        if zone is not None and all(end <= zone.start_pfn or zone.end_pfn <= start for start, end in others):
            hides = f"; hidden: its first and last page agree; the others are outside {zone}, where no walk of it comes"
    # What the kernel itself gets wrong is PG_reserved.
    difference, pfn = (None, 0) if reserved or reasons == (OWN_ZONE,) else _flipped(runs, memory)
    return Violation(
        severity,
        f"pageblock links to {names}: {why}{hides}"
        + looks_like_hardware(difference, f"the links of its neighbors (page->flags of pfn {pfn:#x})"),
        {
            "runs": [[start, end, *layout.node_zone(link)] for start, end, link in runs],
            "hidden": hidden,
            "reserved": reserved,
            **({"hardware": difference} if difference else {}),
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
    about=BLOCK,
    checks=(PageCheck(check, describe, join=False),),
    # Another finding says which of the pages are wrong, and how.
    explains=9,
)
