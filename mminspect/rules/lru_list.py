# SPDX-License-Identifier: LGPL-2.1-or-later
"""
LRU lists that disagree with their pages, with themselves, or with what is counted of them.

Pages that reclaim may take have PG_lru and are on a list of a ``struct lruvec``: of their node, and of the memory
cgroup that they are charged to. There is a list for each of active and inactive, anonymous and file pages, and with
multi-gen LRU one for each generation, type and zone. Who takes a page off finds the list's count by the page's flags.
Each list is followed from its head, never further than to the first page that can't be on it, and in the walk each
page with PG_lru is looked for on them.

- ``link``: the list leads to an address that is no struct page's ``lru``.
- ``prev``: a page's ``lru.prev``, or the head's, isn't where the list came from.
- ``cycle``: the list leads back to a page that it had.
- ``free``: the page is free: ``PageBuddy()``, in a free block, or with neither a reference nor PG_lru.
- ``node``: the page links to another node, so another lock is taken for it.
- ``list``: the page's flags say that it is on another list.
- ``count``: ``lru_zone_size``, or ``nr_pages`` of all generations together, isn't the number of pages on the lists.
- ``lost``: a page has PG_lru, and is on no list.

Changes are made with ``lru_lock`` held: the lruvec's, before Linux 5.11 the node's. Where it is free, everything is an
error. Where it is held, or nothing tells, somebody may have been stopped in the middle of a change: ``count`` isn't
judged, nor is ``lost`` on that node, and the others are notes. A page without PG_lru may be on a list: somebody is
about to take it off. Which memory cgroup a page belongs to isn't judged, nor which generation.

This rule is applied only if it is selected (``--select lru-list``): it follows each page of the lists, which takes some
microseconds for each. The lists of the running kernel change all the time, and aren't looked at. If not all can be
followed (more than 4194304 pages, or the dump doesn't hold them), a warning says so, and ``lost`` isn't
judged.

``detail`` has the ``problem``; where it is of one list the ``list``, and the ``lruvec`` and ``memcg`` by address (null
for that of the node itself); whether the lock was held (``locked``, null if nothing tells); how many pages (``pages``)
and the first 16 of them (``pfns``); for ``count`` the ``zone`` ID, the ``count`` and what was ``counted``; else the
``value`` that shows it: an address, for ``cycle`` the pfn, for ``node`` the link, for ``list`` ``page->flags``.

Example: a dump of amd64 6.1 in which the ``lru.next`` of a page of the page cache was set to zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mminspect.findings import ERROR, NOTE, WARNING, ZONE
from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memorymap.lru import LruFault, LruList, LruLists, Lruvec
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.zones import Node, Zone
from mminspect.rules.base import Rule, TallyCheck, Violation, counted

SHOWN = 16
LOCKED = "; lru_lock is held: the CPU may have been stopped while it changed the list"
UNKNOWN = "; no lock tells whether the list was being changed"

Pfns = npt.NDArray[np.uint64]


class Lists:
    """Judges the lists, and looks for the pages of a walk on them."""

    def __init__(self, memory: MemoryMap) -> None:
        self._memory = memory
        self._lru = memory.lru or LruLists((), None, 0)
        lists = [item.pfns for lruvec in self._lru.lruvecs for item in lruvec.lists]
        self._pfns: Pfns = np.sort(np.concatenate([np.zeros(0, np.uint64), *lists]))
        self._lost: dict[int, list[int]] = {}
        self._free: list[int] = []
        self._lost_pages: dict[int, int] = {}

    def count(self, chunk: Chunk) -> tuple[list[tuple[int, int, list[int]]], list[int]]:
        """Find the pages of a chunk that are on no list, (node, number, the first ones), and free ones on a list."""
        low, high = np.searchsorted(self._pfns, np.array([chunk.start_pfn, chunk.end_pfn], np.uint64)).tolist()
        here = self._pfns[low:high]
        return list(self._not_on(chunk, here)), chunk.in_free_blocks(here).tolist()

    def _not_on(self, chunk: Chunk, here: Pfns) -> Iterator[tuple[int, int, list[int]]]:
        page = self._memory.layout.page
        if chunk.words is None or not chunk.digest.any_bits(page.flags_offset) & page.lru:
            return
        kind = chunk.flags.dtype.type
        at = np.flatnonzero(chunk.flags & kind(page.lru | self._lru.unlinked) == kind(page.lru))
        at = at[chunk.state[at] == INITIALIZED]
        pfns = at.astype(np.uint64) + np.uint64(chunk.start_pfn)
        if len(here):
            found = here[np.minimum(np.searchsorted(here, pfns), len(here) - 1)] == pfns
            at, pfns = at[~found], pfns[~found]
        nodes = chunk.link[at] >> np.uint32(self._memory.layout.flags.zone.width)
        for nid in sorted(set(nodes.tolist())):
            of_node = pfns[nodes == nid]
            yield nid, len(of_node), of_node[:SHOWN].tolist()

    def add(self, part: tuple[list[tuple[int, int, list[int]]], list[int]]) -> None:
        """Add what was found in a chunk."""
        lost, free = part
        self._free += free
        for nid, number, pfns in lost:
            self._lost_pages[nid] = self._lost_pages.get(nid, 0) + number
            first = self._lost.setdefault(nid, [])
            first += pfns[: SHOWN - len(first)]

    def violations(self) -> Iterator[Violation]:
        """Judge each list, and the pages that are on none."""
        free = set(self._free)
        for lruvec in self._lru.lruvecs:
            for item in lruvec.lists:
                yield from self._of_list(lruvec, item, free)
            for count in lruvec.counts:
                if count.stated != count.counted:
                    text = f"the count of {count.name} is {count.stated}, but {count.counted} pages are on the lists"
                    more = {"zone": count.zone, "count": count.stated, "counted": count.counted}
                    of = self._memory.zone(lruvec.node, count.zone)
                    yield self._violation(lruvec, None, "count", text, [], more, of=of)
        yield from self._not_found()

    def _of_list(self, lruvec: Lruvec, item: LruList, free: set[int]) -> Iterator[Violation]:
        by_problem: dict[str, list[LruFault]] = {}
        for fault in item.faults:
            by_problem.setdefault(fault.problem, []).append(fault)
        for pfn in item.pfns[np.isin(item.pfns, list(free))].tolist() if free else ():
            by_problem.setdefault("free", []).append(LruFault("free", pfn, 0))
        for problem, faults in by_problem.items():
            pfn, value = faults[0].pfn, faults[0].value
            who = f"pfn {pfn:#x}" if pfn is not None else "its head"
            text = {
                "link": f"{who} is followed by {value:#x}, which is no struct page's lru",
                "prev": f"{who} has lru.prev {value:#x}, which isn't where the list came from",
                "cycle": f"{who} is followed by pfn {value:#x}, which the list had before",
                "free": f"{who} is free",
                "node": f"{who} links to {self._memory.link_name(value) if problem == 'node' else ''}",
                "list": f"{who} has flags of a page of another list ({value:#x})",
            }[problem]
            pfns = sorted(fault.pfn for fault in faults if fault.pfn is not None)
            yield self._violation(lruvec, item, problem, text, pfns, {"value": value})

    def _not_found(self) -> Iterator[Violation]:
        """Judge pages that are on no list, on nodes where all lists were followed and nobody changes them."""
        missing = self._lru.missing
        if missing is not None:
            text = f"not all LRU lists could be followed, so pages that are on none are not looked for: {missing}"
            yield Violation(WARNING, text, {"problem": "unfinished"}, of=self._memory, pages=(0, 0))
            return
        for nid, first in self._lost.items():
            lruvecs = [lruvec for lruvec in self._lru.lruvecs if lruvec.node == nid]
            whole = all(lruvec.locked is False and all(i.complete for i in lruvec.lists) for lruvec in lruvecs)
            if not whole or not lruvecs:
                continue
            number = self._lost_pages[nid]
            named = tuple((pfn, pfn + 1) for pfn in first)
            yield Violation(
                ERROR,
                f"node {nid}: {counted(number, 'page')} with PG_lru on no LRU list, the first is {first[0]:#x}: who "
                "takes it off writes through whatever its lru has",
                {"problem": "lost", "locked": False, "pages": number, "pfns": first},
                of=self._memory.node(nid),
                pages=named[0],
                named=named,
            )

    def _violation(
        self,
        lruvec: Lruvec,
        item: LruList | None,
        problem: str,
        text: str,
        pfns: list[int],
        more: dict[str, Any],
        of: Zone | None = None,
    ) -> Violation:
        free = lruvec.locked is False
        owner: Zone | Node | MemoryMap = of or self._memory.node(lruvec.node) or self._memory
        named = tuple((pfn, pfn + 1) for pfn in pfns[:SHOWN])
        detail: dict[str, Any] = {"problem": problem, "lruvec": lruvec.address, "memcg": lruvec.memcg}
        if item is not None:
            detail["list"] = item.name
        detail.update(locked=lruvec.locked, pages=len(pfns), pfns=pfns[:SHOWN], **more)
        memcg = "" if lruvec.memcg is None else f" of the memory cgroup at {lruvec.memcg:#x}"
        which = f"node {lruvec.node}, LRU lists{memcg}" + ("" if item is None else f", {item.name}")
        return Violation(
            ERROR if free else NOTE,
            f"{which}: {text}" + ("" if free else LOCKED if lruvec.locked else UNKNOWN),
            detail,
            of=owner,
            pages=named[0] if named else None,
            named=named,
        )


RULE = Rule(
    summary="LRU lists that disagree with their pages (if selected)",
    functions=(
        "lruvec_add_folio",
        "lruvec_del_folio",
        "isolate_lru_folios",
        "scan_folios",
        "move_folios_to_lru",
        "__page_cache_release",
    ),
    about=ZONE,
    checks=(TallyCheck(Lists),),
    lru=True,
    on_request=True,
)
