# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Lists of unaccepted memory that disagree with their pages, with themselves, or with their count.

A confidential guest (TDX, SEV-SNP) must accept memory before it is used. With CONFIG_UNACCEPTED_MEMORY (Linux 6.5 and
newer), blocks that it hasn't accepted yet are on ``zone->unaccepted_pages``, linked through ``page->lru``; each is as
large as the allocator's largest block. They count as free, and are in no free list. ``__accept_page()`` takes one off,
accepts it, and gives it to the allocator. All changes are made with ``zone->lock`` held.

- ``link``: the list leads to an address that is no struct page's ``lru``.
- ``prev``: a page's ``lru.prev``, or the head's, isn't where the list came from.
- ``cycle``: the list leads back to a page that it had.
- ``free``: a page of the block is ``PageBuddy()``: it is handed out though nobody accepted it.
- ``references``: the page has references: somebody uses it.
- ``order``: the page isn't the first one of such a block.
- ``zone``: the page links to another zone, to which it will be given.
- ``type``: the page isn't ``PageUnaccepted()``, which such pages are since Linux 6.12.
- ``lost``: a page is ``PageUnaccepted()``, and not on its zone's list. Looked for where a zone has, or counts, any.
- ``count``: NR_UNACCEPTED isn't the number of pages on the list.

Errors. If ``zone->lock`` was held when the dump was taken, who held it may have been in the middle of a change, and
findings of that zone are notes; ``lost`` and ``count`` aren't judged then, nor where the list couldn't be followed to
its end: memory that the dump lacks, or more than 1048576 blocks.

The running kernel isn't judged, as its lists change.

``detail`` has the ``problem``, whether the lock was held (``locked``), how many blocks (``pages``), and the first pfns
of the first 16 of them (``pfns``); for ``count`` the ``count`` and what was ``counted``, in pages; else the ``value``
that shows it: an address, for ``cycle`` the pfn, for ``zone`` the link, for ``type`` the word with the page type.

Example: a dump of amd64 6.12 in which a free block of order 10 was put on the list without being taken off its free
list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mminspect.findings import ERROR, NOTE, ZONE
from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.percpu import ListFault
from mminspect.memorymap.unaccepted import UnacceptedList
from mminspect.memorymap.zones import Zone
from mminspect.rules.base import Rule, TallyCheck, Violation, counted
from mminspect.rules.commits import commit

SHOWN = 16

Part = tuple[list[int], list[tuple[int, int, list[int]]]]


class Lists:
    """Judges the lists, and looks for their pages, and others of their type, in a walk."""

    def __init__(self, memory: MemoryMap) -> None:
        self._memory = memory
        found = [item.pfns for item in memory.unaccepted]
        self._pfns: npt.NDArray[np.uint64] = np.sort(np.concatenate([np.zeros(0, np.uint64), *found]))
        self._free: list[int] = []
        self._lost: dict[int, tuple[int, list[int]]] = {}
        self._type = next((item for item in memory.layout.page.types if item[0] == "unaccepted"), None)

    def count(self, chunk: Chunk) -> Part:
        """Find blocks of the lists with free pages in them, and pages of their type that are on none."""
        low, high = np.searchsorted(self._pfns, np.array([chunk.start_pfn, chunk.end_pfn], np.uint64)).tolist()
        here = self._pfns[low:high]
        return self._with_free_pages(chunk), list(self._of_the_type(chunk, here))

    def _with_free_pages(self, chunk: Chunk) -> list[int]:
        """Find the blocks of the lists that a free block of the chunk begins in."""
        free = chunk.free_pages if len(self._pfns) else None
        if free is None or not len(free.at):
            return []
        start = free.at.astype(np.uint64) + np.uint64(chunk.start_pfn)
        number = np.searchsorted(self._pfns, start, "right")
        block = self._pfns[np.maximum(number, 1) - 1]
        inside = (number > 0) & (start < block + np.uint64(1 << self._memory.layout.max_order))
        return sorted(set(block[inside].tolist()))

    def _of_the_type(self, chunk: Chunk, here: npt.NDArray[np.uint64]) -> Iterator[tuple[int, int, list[int]]]:
        """Find (link, number, first pfns) of pages that are PageUnaccepted() and on no list."""
        # To look at each page's type takes time, and nearly no machine has such memory.
        if self._type is None or not self._memory.unaccepted or chunk.words is None:
            return
        _, mask, value = self._type
        at = chunk.with_type(mask, value)
        at = at[chunk.state[at] == INITIALIZED]
        pfns = at.astype(np.uint64) + np.uint64(chunk.start_pfn)
        missing = ~np.isin(pfns, here)
        at, pfns = at[missing], pfns[missing]
        links = chunk.link[at]
        for link in sorted(set(links.tolist())):
            of_zone = pfns[links == link]
            yield link, len(of_zone), of_zone[:SHOWN].tolist()

    def add(self, part: Part) -> None:
        """Add what was found in a chunk."""
        free, lost = part
        self._free += free
        for link, number, pfns in lost:
            before, first = self._lost.get(link, (0, []))
            self._lost[link] = before + number, [*first, *pfns][:SHOWN]

    def violations(self) -> Iterator[Violation]:
        """Judge each list, and the pages that are on none."""
        memory = self._memory
        for item in memory.unaccepted:
            zone = memory.zone(item.node, item.zone)
            if zone is None:
                continue
            yield from self._faults(zone, item)
            blocks = len(item.pfns) << memory.layout.max_order
            if item.complete and not item.locked and item.stated not in (None, blocks):
                text = f"NR_UNACCEPTED is {item.stated}, but {blocks} pages are on the list"
                yield _violation(zone, False, "count", text, [], {"count": item.stated, "counted": blocks})
        for link, (number, pfns) in self._lost.items():
            zone = memory.zone(*memory.layout.node_zone(link))
            if zone is not None and self._is_known(zone):
                text = f"{counted(number, 'page')} that are PageUnaccepted() are not on it, the first is {pfns[0]:#x}"
                yield _violation(zone, False, "lost", text, pfns, {}, number)

    def _is_known(self, zone: Zone) -> bool:
        """Tell whether all of a zone's list is known, and nobody was changing it."""
        if zone.state is None or zone.state.locked:
            return False
        return all(
            item.complete for item in self._memory.unaccepted if (item.node, item.zone) == (zone.node, zone.index)
        )

    def _faults(self, zone: Zone, item: UnacceptedList) -> Iterator[Violation]:
        by_problem: dict[str, list[ListFault]] = {}
        free = set(self._free)
        of_walk = (ListFault("free", pfn, 0) for pfn in item.pfns.tolist() if pfn in free)
        for fault in (*item.faults, *of_walk):
            by_problem.setdefault(fault.problem, []).append(fault)
        for problem, faults in by_problem.items():
            pfn, value = faults[0].pfn, faults[0].value
            who = f"pfn {pfn:#x}" if pfn is not None else "its head"
            text = {
                "link": f"{who} is followed by {value:#x}, which is no struct page's lru",
                "prev": f"{who} has lru.prev {value:#x}, which isn't where the list came from",
                "cycle": f"{who} is followed by pfn {value:#x}, which the list had before",
                "free": f"the block at {who} has free pages: the allocator has them, though they aren't accepted",
                "references": f"{who} has {value} references",
                "order": f"{who} isn't the first page of a block of order {value}",
                "zone": f"{who} links to {self._memory.link_name(value) if problem == 'zone' else ''}",
                "type": f"{who} isn't PageUnaccepted() ({value:#x})",
            }[problem]
            pfns = sorted(fault.pfn for fault in faults if fault.pfn is not None)
            yield _violation(zone, item.locked, problem, text, pfns, {"value": value})


def _violation(
    zone: Zone, locked: bool, problem: str, text: str, pfns: list[int], more: dict[str, Any], number: int | None = None
) -> Violation:
    named = tuple((pfn, pfn + 1) for pfn in pfns[:SHOWN])
    detail: dict[str, Any] = {"problem": problem, "locked": locked, "pages": len(pfns) if number is None else number}
    return Violation(
        NOTE if locked else ERROR,
        f"{zone}, unaccepted memory: {text}"
        + ("; zone->lock is held, so the list may be half changed" if locked else ""),
        {**detail, "pfns": pfns[:SHOWN], **more},
        of=zone,
        pages=named[0] if named else None,
        named=named,
    )


RULE = Rule(
    summary="lists of unaccepted memory that disagree with their pages",
    functions=("__free_unaccepted", "__accept_page", "try_to_accept_memory_one", "page_is_unaccepted"),
    commits=(commit("dcdfdd40fa82", "the lists"),),
    about=ZONE,
    per_cpu=True,
    checks=(TallyCheck(Lists),),
)
