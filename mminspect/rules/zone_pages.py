# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Zones whose spanned, present and managed pages can't be true together, or not with what was counted.

- ``present_pages <= spanned_pages`` and ``managed_pages <= spanned_pages`` always hold, and ``node_present_pages`` is
  the sum of the node's zones. Watermarks, reclaim and the choice of zonelists follow these numbers. An error if not.
- ``managed_pages <= present_pages`` holds but while memory goes online: ``online_pages()`` first gives its pages to the
  allocator, then counts them as present. A warning if not.
- The free pages by ``nr_free`` are managed pages. Some places free pages first and count them then, a pageblock at
  most. A warning if there are more than that.
- Every present page is an online page in the zone's span. Holes are online too, so there can be more of these; if there
  are fewer, after those that link to another zone that spans them, the zone counts memory that isn't there. A
  warning, as only the numbers are wrong.

Pages are not counted in the running kernel.

``detail`` has ``problem``, one of ``managed``, ``present``, ``node present``, ``free`` and ``counted``, and the two
numbers: ``value`` and its ``limit`` (for ``node present``, what it should be).

Example: a dump of amd64 6.12 in which ``present_pages`` of DMA32 was made larger than ``spanned_pages``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mminspect.findings import ERROR, WARNING, ZONE
from mminspect.memmap.chunk import OFFLINE, Chunk
from mminspect.memorymap.layout import FREE_LISTS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.zones import Zone
from mminspect.rules.base import MapCheck, Rule, TallyCheck, Violation
from mminspect.rules.commits import commit

_MORE = {
    ("managed", WARNING): ": memory being onlined at that moment is counted like this",
    ("free", WARNING): ": one of these numbers is wrong",
}


def check(memory: MemoryMap) -> Iterator[Violation]:
    """Compare the numbers with each other."""
    for zone in memory.populated_zones:
        if zone.managed > zone.present:
            severity = ERROR if zone.managed > zone.spanned else WARNING
            yield _violation(zone, severity, "managed", "managed_pages", zone.managed, zone.present, "present_pages")
        if zone.present > zone.spanned:
            yield _violation(zone, ERROR, "present", "present_pages", zone.present, zone.spanned, "spanned_pages")
        free = sum(area.nr_free << order for order, area in enumerate(zone.state.free_areas)) if zone.state else 0
        # init_cma_reserved_pageblock() frees a pageblock and counts it then.
        if free > zone.managed + memory.layout.pageblock_nr_pages:
            yield _violation(zone, WARNING, "free", "free pages by nr_free", free, zone.managed, "managed_pages")
    for node in memory.nodes:
        present = sum(zone.present for zone in memory.zones if zone.node == node.nid)
        if node.present != present:
            yield Violation(
                ERROR,
                f"node {node.nid} has node_present_pages {node.present}, its zones together {present}",
                {"problem": "node present", "value": node.present, "limit": present},
                of=node,
            )


def _violation(zone: Zone, severity: str, problem: str, member: str, value: int, limit: int, of: str) -> Violation:
    return Violation(
        severity,
        f"{zone} has {member} {value}, more than the {limit} {of}{_MORE.get((problem, severity), '')}",
        {"problem": problem, "value": value, "limit": limit},
        of=zone,
    )


class Counts:
    """Counts the online pages in each zone's span that belong to no other zone."""

    def __init__(self, memory: MemoryMap) -> None:
        self._memory = memory
        self._online: dict[int, int] = {}

    def count(self, chunk: Chunk) -> dict[int, int]:
        """Count a chunk; by link of the zone."""
        result = {}
        zones = self._memory.zones_spanning(chunk.start_pfn, chunk.end_pfn)
        runs = chunk.runs
        for zone in zones:
            low, high = max(zone.start_pfn, chunk.start_pfn), min(zone.end_pfn, chunk.end_pfn)
            if len(zones) == len(runs) == 1 and runs[0].state != OFFLINE:
                result[self._memory.layout.link(zone.node, zone.index)] = high - low
                continue
            part = slice(low - chunk.start_pfn, high - chunk.start_pfn)
            own = chunk.state[part] != OFFLINE
            for other in zones:
                if other is zone:
                    continue
                link = self._memory.layout.link(other.node, other.index)
                inside = slice(max(other.start_pfn - low, 0), max(other.end_pfn - low, 0))
                own[inside] &= chunk.link[part][inside] != link
            result[self._memory.layout.link(zone.node, zone.index)] = int(np.count_nonzero(own))
        return result

    def add(self, part: dict[int, int]) -> None:
        """Add what was counted in a chunk."""
        for link, count in part.items():
            self._online[link] = self._online.get(link, 0) + count

    def violations(self) -> Iterator[Violation]:
        """Compare with ``present_pages``."""
        for zone in self._memory.populated_zones:
            # Device memory is present and never online.
            count = self._online.get(self._memory.layout.link(zone.node, zone.index), 0)
            if zone.present > count and zone.name != "Device":
                yield _violation(zone, WARNING, "counted", "present_pages", zone.present, count, "online pages")


RULE = Rule(
    summary="zones whose page counts can't be true",
    functions=("calculate_node_totalpages", "adjust_present_page_count", "zone_managed_pages", "build_all_zonelists"),
    commits=(commit("a4b0bf6a40f3", "memory was freed too early and lost"),),
    about=ZONE,
    needs=(FREE_LISTS,),
    left_behind=("free",),
    checks=(MapCheck(check), TallyCheck(Counts)),
)
