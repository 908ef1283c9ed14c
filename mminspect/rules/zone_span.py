# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages that link to a zone that doesn't span them.

``zone_spans_pfn(page_zone(page), pfn)`` is assumed wherever a page's zone is used together with its pfn: the
index into a FLATMEM pageblock bitmap counts from ``zone_start_pfn``, and a page freed or isolated goes to a
zone that doesn't own it. With ``CONFIG_DEBUG_VM``, ``VM_BUG_ON_PAGE(!zone_spans_pfn())`` stops the kernel in
``set_pfnblock_flags_mask()``; since Linux 6.17 in the reading functions too.

Holes are the normal case. Since Linux 5.12 (0740a50b9baa), a hole's pages link to the zone of a neighbor and
are PG_reserved. Severity:

- note: no zone spans the pages, and all are PG_reserved. No zone walker comes here, since each stays in its span.
  Walks over pfns (``/proc/kpageflags``, ``page_owner``, hotplug of the section) pass over reserved pages. Every x86
  has one: pfn 0, which belongs to no zone.
- warning: another zone spans them, all are PG_reserved, and the kernel has SPARSEMEM. A reserved page isn't in the
  allocator, and the bitmap index counts from the section, so it can't leave the bitmap. Stock kernels have this below
  4 GiB where low memory ends. Where the pages are System RAM, they can be freed later, and the consequences make it
  an error.
- error: otherwise. A page that isn't reserved can be freed or isolated into the wrong zone; with
  FLATMEM the bitmap index is wrong.

``detail.linked`` is the zone that the pages link to, ``detail.spanned_by`` the zones that span any of them, each
``[node, zone ID]``; ``detail.reserved`` says whether all are PG_reserved.

Example: QEMU with ``-m 203M -M pc,max-ram-below-4g=128M``: reserved pages at the end of low RAM link to Normal,
which starts at 4 GiB, inside the span of DMA32.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, NOTE, WARNING
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.zones import Zone
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation, counted
from mminspect.rules.commits import commit


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find the parts of runs that lie outside the zone they link to."""
    known: dict[int, Zone | None] = {}
    for run in chunk.runs:
        if not run.judged:
            continue
        if run.link not in known:
            known[run.link] = memory.zone(*memory.layout.node_zone(run.link))
        zone = known[run.link]
        if zone is None:
            continue
        for start, end in outside(run.start, run.end, zone.start_pfn, zone.end_pfn):
            yield Match(start, end, link=run.link, reserved=bool(chunk.reserved(start, end).all()))


def outside(start: int, end: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Get the parts of ``[start, end)`` that are outside ``[low, high)``."""
    if low >= high:
        yield start, end
        return
    if start < low:
        yield start, min(end, low)
    if end > high:
        yield max(start, high), end


def grade(memory: MemoryMap, spanned: bool, reserved: bool) -> tuple[str, str]:
    """
    Grade pages outside the zone that they link to.

    :param spanned: Whether another zone spans any of them.
    :param reserved: Whether all are PG_reserved.
    :return: Severity, and what of the pages decides.
    """
    if not reserved:
        return ERROR, "not all are PG_reserved, so no flag keeps them from being freed or isolated into the wrong zone"
    if not spanned:
        return NOTE, "PG_reserved, where no walk of a zone comes"
    if memory.layout.flatmem:
        return ERROR, "with FLATMEM the pageblock index counts from the wrong zone"
    return (
        WARNING,
        "PG_reserved, so not in the allocator, and with SPARSEMEM the pageblock index counts from the section",
    )


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Name the zones that span the run."""
    assert match.link is not None
    node, index = memory.layout.node_zone(match.link)
    zone = memory.zone(node, index)
    assert zone is not None
    others = memory.zones_spanning(match.start, match.end)
    severity, why = grade(memory, bool(others), match.reserved)
    spans = f"{zone} spans [{zone.start_pfn:#x}, {zone.end_pfn:#x})" if zone.spanned else f"{zone} is empty"
    part = "" if any(z.start_pfn <= match.start and match.end <= z.end_pfn for z in others) else "in part "
    inside = f"they are {part}inside {', '.join(map(str, others))}" if others else "no zone spans them"
    return Violation(
        severity,
        f"{counted(match.pages, 'page')} linked to {zone}, but {spans} and {inside}: {why}",
        {
            "linked": [node, index],
            "spanned_by": [[z.node, z.index] for z in others],
            "reserved": match.reserved,
        },
    )


RULE = Rule(
    summary="pages that link to a zone that doesn't span them",
    functions=(
        "zone_spans_pfn",
        "set_pfnblock_flags_mask",
        "__get_pfnblock_flags_mask",
        "get_pfnblock_flags_mask",
        "move_freepages_block",
        "isolate_freepages_block",
        "__free_one_page",
    ),
    commits=(
        commit("73a6e474cb37", "left holes to zone 0 of node 0"),
        commit("0740a50b9baa", "its fix: a hole gets the zone and node of a neighbor"),
        commit("122e093c1734", "holes of one node were written over pages of another"),
    ),
    checks=(PageCheck(check, describe),),
    explains=3,
)
