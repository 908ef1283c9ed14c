# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Per-CPU lists with pages that can't be on them, and lists that disagree with themselves.

Each CPU keeps some free pages of each zone on lists of its own (``zone->per_cpu_pageset``, before Linux 5.14
``zone->pageset``), by order and migratetype, and counts them in ``count``. The allocator hands these pages out without
another look. Each list is followed from its head, never further than to the first page that can't be on it, and all
pages of its blocks are looked at.

- ``zone``: the page links to another zone. It will be allocated for this zone and freed to the other.
- ``buddy``: the page is ``PageBuddy()``, or in a free block: it is on a free list too, and will be allocated twice.
- ``references``: the page has references: somebody uses it.
- ``twice``: the page is on two lists, or in a block of another one.
- ``cycle``: the list leads back to a page that it had.
- ``link``: the list leads to an address that is no struct page's ``lru``.
- ``prev``: a page's ``lru.prev``, or the head's, isn't where the list came from.
- ``count``: ``count`` isn't the number of pages on the lists.

A CPU that died or was stopped in the allocator leaves its lists half changed. Where ``pcp->lock`` (Linux 6.0 and newer,
with SMP) is free, nobody was changing them, and everything is an error. Where it is held, or there is no such lock,
``count`` and ``prev`` are notes, and the others warnings; but a page that is linked to its neighbors both ways is on
the list for certain, and stays an error. The message says which it is.

The lists of the running kernel are not looked at, as they change all the time. Lists that the dump doesn't hold are
left out, and so are all if the offsets of the CPUs aren't known: without kallsyms or a System.map. A list is left after
64 wrong pages, and all of them after 524288 pages; then its ``count`` isn't judged.

``detail`` has the ``problem``, the ``cpu``, whether the lock was held (``locked``, null if nothing tells), the list's
``order`` (null where that of huge pages can't be told) and ``list`` (its migratetype), how many pages (``pages``) and
the first 16 of them (``pfns``); for ``count`` the ``count`` and what was ``counted``; else the ``value`` that shows it:
for ``zone`` the link, for ``link`` and ``prev`` the address, for ``twice`` and for a page in a free block the pfn of
what it is in too.

Example: a dump of amd64 6.1 in which a page on a per-CPU list was made to link to another zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mminspect.findings import ERROR, NOTE, WARNING, ZONE
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.layout import PER_CPU_LISTS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.percpu import PerCpuList, PerCpuPages, per_cpu_blocks
from mminspect.memorymap.zones import Zone
from mminspect.rules.base import MapCheck, Rule, TallyCheck, Violation
from mminspect.rules.commits import commit

SHOWN = 16

# What a CPU leaves that is stopped between two steps.
HALF_DONE = ("count", "prev")


def check(memory: MemoryMap) -> Iterator[Violation]:
    """Judge the per-CPU lists."""
    for pages in memory.per_cpu:
        zone = memory.zone(pages.node, pages.zone)
        if zone is None:
            continue
        for item in pages.lists:
            yield from _faults(memory, zone, pages, item)
        yield from _count(zone, pages)
    yield from _twice(memory)


def _faults(memory: MemoryMap, zone: Zone, pages: PerCpuPages, item: PerCpuList) -> Iterator[Violation]:
    """Make findings of what was seen on the way, one for each problem."""
    by_problem: dict[tuple[str, bool], list[tuple[int | None, int]]] = {}
    for fault in item.faults:
        by_problem.setdefault((fault.problem, fault.linked), []).append((fault.pfn, fault.value))
    for (problem, linked), faults in by_problem.items():
        pfn, value = faults[0]
        who = f"pfn {pfn:#x}" if pfn is not None else "its head"
        text = {
            "zone": f"{who} links to {memory.link_name(value) if problem == 'zone' else ''}",
            "buddy": f"{who} is on a free list too (PageBuddy)",
            "references": f"{who} has {value} references",
            "cycle": f"{who} is followed by a page that the list had before",
            "link": f"{who} is followed by {value:#x}, which is no struct page's lru",
            "prev": f"{who} has lru.prev {value:#x}, which isn't where the list came from",
        }[problem]
        pfns = sorted(pfn for pfn, _ in faults if pfn is not None)
        yield _violation(zone, pages, item, problem, text, pfns, linked, {"value": value})


def _count(zone: Zone, pages: PerCpuPages) -> Iterator[Violation]:
    """Compare ``count`` with what is on the lists, if all could be followed to their ends."""
    if not all(item.complete for item in pages.lists):
        return
    counted = sum(len(item.pfns) << item.order for item in pages.lists if item.order is not None)
    huge = sum(len(item.pfns) for item in pages.lists if item.order is None)
    if huge:
        # How large a huge page is depends on the architecture.
        size, rest = divmod(pages.count - counted, huge)
        if size > 0 and not rest and not size & (size - 1):
            return
    elif pages.count == counted:
        return
    more = f" and {huge} huge pages" if huge else ""
    text = f"count is {pages.count}, but {counted} pages{more} are on the lists"
    yield _violation(zone, pages, None, "count", text, [], False, {"count": pages.count, "counted": counted})


def _twice(memory: MemoryMap) -> Iterator[Violation]:
    """Find pages that are on two lists, or inside a block on another."""
    start, end, number, lists = per_cpu_blocks(memory.per_cpu)
    overlap = np.flatnonzero(start[1:] < np.maximum.accumulate(end)[:-1]) + 1
    found: dict[int, list[int]] = {}
    for position in overlap.tolist():
        found.setdefault(int(number[position]), []).append(position)
    for index, positions in found.items():
        pages, item = lists[index]
        zone = memory.zone(pages.node, pages.zone)
        assert zone is not None
        first = positions[0]
        other, where = lists[int(number[first - 1])]
        text = f"pfn {int(start[first]):#x} is on the list of CPU {other.cpu}, {_name(where)} too"
        pfns = start[positions].tolist()
        yield _violation(zone, pages, item, "twice", text, pfns, True, {"value": int(start[first - 1])})


class InFreeBlocks:
    """Finds the blocks of a walk that are on a per-CPU list and inside a free block."""

    def __init__(self, memory: MemoryMap) -> None:
        self._memory = memory
        self._blocks = per_cpu_blocks(memory.per_cpu)
        self._found: dict[int, list[tuple[int, int, int]]] = {}

    def count(self, chunk: Chunk) -> list[tuple[int, int, int, int]]:
        """Find them in a chunk: (number of the list, pfn, first pfn of the free block, pfn behind its last)."""
        blocks = self._blocks
        low, high = np.searchsorted(blocks.start, np.array([chunk.start_pfn, chunk.end_pfn], np.uint64)).tolist()
        free = chunk.free_pages if low < high else None
        if free is None or not len(free.at):
            return []
        whole = free.whole
        start = free.at[whole].astype(np.uint64) + np.uint64(chunk.start_pfn)
        end = start + (np.uint64(1) << free.order[whole])
        if not len(start):
            return []
        listed = blocks.start[low:high]
        # The first free block that ends behind where the listed one begins.
        nearest = np.searchsorted(end, listed, "right")
        there = np.minimum(nearest, len(start) - 1)
        inside = (nearest < len(start)) & (start[there] < blocks.end[low:high])
        return [
            (int(blocks.number[low + at]), int(listed[at]), int(start[there[at]]), int(end[there[at]]))
            for at in np.flatnonzero(inside).tolist()
        ]

    def add(self, part: list[tuple[int, int, int, int]]) -> None:
        """Add what was found in a chunk."""
        for number, pfn, start, end in part:
            self._found.setdefault(number, []).append((pfn, start, end))

    def violations(self) -> Iterator[Violation]:
        """Judge each list."""
        for number, found in self._found.items():
            pages, item = self._blocks.lists[number]
            zone = self._memory.zone(pages.node, pages.zone)
            assert zone is not None
            pfn, start, end = found[0]
            text = f"pfn {max(pfn, start):#x} is in the free block [{start:#x}, {end:#x}) too"
            pfns = [pfn for pfn, _, _ in found]
            yield _violation(zone, pages, item, "buddy", text, pfns, True, {"value": start})


def _name(item: PerCpuList) -> str:
    return item.migratetype if item.order is None else f"order {item.order} {item.migratetype}"


def _violation(
    zone: Zone,
    pages: PerCpuPages,
    item: PerCpuList | None,
    problem: str,
    text: str,
    pfns: list[int],
    certain: bool,
    more: dict[str, Any],
) -> Violation:
    severity, why = ERROR, ""
    if not certain and pages.locked is not False:
        severity = NOTE if problem in HALF_DONE else WARNING
        why = "; pcp->lock is held" if pages.locked else "; no lock tells whether they were being changed"
        why += ": the CPU may have been stopped while it changed its lists"
    order = (item.order or 0) if item is not None else 0
    detail: dict[str, Any] = {"problem": problem, "cpu": pages.cpu, "locked": pages.locked}
    if item is not None:
        detail.update(order=item.order, list=item.migratetype)
    detail.update(pages=len(pfns), pfns=pfns[:SHOWN], **more)
    where = f"{zone}, CPU {pages.cpu}" + (f", {_name(item)}" if item is not None else "")
    # Any page of a block may be the wrong one.
    named = tuple((pfn & -(1 << order), (pfn & -(1 << order)) + (1 << order)) for pfn in pfns[:SHOWN])
    return Violation(
        severity,
        f"{where}: {text}{why}",
        detail,
        of=zone,
        pages=named[0] if named else None,
        named=named,
    )


RULE = Rule(
    summary="per-CPU lists with pages that can't be on them",
    functions=("rmqueue_pcplist", "rmqueue_bulk", "free_pcppages_bulk", "free_unref_page", "drain_pages_zone"),
    commits=(commit("7b086755fb8c", "pages that bypass a locked list"),),
    about=ZONE,
    needs=(PER_CPU_LISTS,),
    left_behind=("zone",),
    checks=(MapCheck(check), TallyCheck(InFreeBlocks)),
    per_cpu=True,
)
