# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages whose node doesn't span them, though their zone does.

A node's span (``node_start_pfn``, ``node_spanned_pages``) contains the spans of all its zones. ``kswapd``, memory
hotplug and every walker of a node believe in it: pages outside are never seen by them. Hot removal of memory has
computed it wrongly before.

Pages that their zone doesn't span are the business of rule zone-span; pages outside every span are normal holes.

``detail`` has the ``node_span``, ``[start, end]``, and ``linked``, the (node, zone ID) that the pages link to.

Always an error.

Example: a dump of two NUMA nodes in which ``node_spanned_pages`` of node 1 was made smaller by a pageblock: the last
512 pages of its zone are outside their node.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation, counted
from mminspect.rules.commits import commit
from mminspect.rules.zone_span import outside


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find the parts of runs that are inside their zone and outside their node."""
    known: dict[int, tuple[Range, Range] | None] = {}
    for run in chunk.runs:
        if not run.judged:
            continue
        if run.link not in known:
            known[run.link] = _spans(run.link, memory)
        spans = known[run.link]
        if spans is None:
            continue
        (first, last), node = spans
        low, high = max(run.start, first), min(run.end, last)
        if low < high:
            for start, end in outside(low, high, *node):
                yield Match(start, end, link=run.link)


def _spans(link: int, memory: MemoryMap) -> tuple[Range, Range] | None:
    """Get what a zone and its node span, ``None`` where no page of the zone is outside of the node's span."""
    nid, index = memory.layout.node_zone(link)
    zone, node = memory.zone(nid, index), memory.node(nid)
    if zone is None or node is None or node.start_pfn <= zone.start_pfn < zone.end_pfn <= node.end_pfn:
        return None
    return (zone.start_pfn, zone.end_pfn), (node.start_pfn, node.end_pfn)


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Name the node's span."""
    assert match.link is not None
    nid, index = memory.layout.node_zone(match.link)
    zone, node = memory.zone(nid, index), memory.node(nid)
    assert zone is not None and node is not None
    return Violation(
        ERROR,
        f"{counted(match.pages, 'page')} of {zone} outside node {nid}, which spans [{node.start_pfn:#x}, "
        f"{node.end_pfn:#x}): walkers of the node never see them",
        {"linked": [nid, index], "node_span": [node.start_pfn, node.end_pfn]},
    )


RULE = Rule(
    summary="pages that their zone spans and their node doesn't",
    functions=("page_to_nid", "pgdat_end_pfn", "update_pgdat_span", "resize_pgdat_range", "kcompactd_do_work"),
    commits=(commit("122e093c1734", "pages of one node were taken for holes of another"),),
    checks=(PageCheck(check, describe),),
)
