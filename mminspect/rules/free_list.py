# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Free lists that disagree with the free pages, or with themselves.

Each zone has a list of free blocks per order and migratetype, linked through ``page->lru``, and ``nr_free`` counts the
blocks of an order. All free pages (``PageBuddy()``) are collected from the memmap and compared with the lists; nothing
is walked, so that a damaged list can't lead astray.

- ``count``: ``nr_free`` isn't the number of free pages with this zone and order.
- ``link``: ``lru.next`` of a free page, or of the list's head, leads to something that is neither a free page of the
  same zone and order nor a head of this order; or the next one's ``lru.prev`` doesn't lead back.
- ``cycle``: free pages that are linked to each other and to no list.
- ``migratetype``: the page is on the list of another migratetype than its pageblock has. A warning; since Linux 6.10
  the allocator keeps the two equal and warns if not. Before, pages may stay on an old list, and it isn't judged.

The others are errors. If ``zone->lock`` was held when the dump was taken, who held it may have been in the middle of a
change, and findings of that zone are notes.

Zones with struct pages that can't be read are not judged, nor is the running kernel, whose lists change all the time.
If there are more than a million free blocks, only their numbers are compared, and a note says so. Pages on per-CPU
lists are not ``PageBuddy()``; rule ``per-cpu-list`` is about them.

``detail`` has the ``problem``, the ``order``, how many pages (``pages``) and the first 16 of them (``pfns``); for
``count`` the ``nr_free`` and ``counted``; for ``migratetype`` the ``list`` that the first page is on and its
``pageblock``'s; for ``link`` the ``next``, and ``hardware`` if that differs in ``one bit`` or ``one byte`` from the
address of the one entry whose ``lru.prev`` leads back, and can't be that of another page.

Example: a dump of amd64 6.1 in which ``nr_free`` of an order of DMA32 was raised by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.findings import ERROR, NOTE, WARNING, ZONE
from mminspect.memmap.chunk import DEFERRED, OFFLINE, Chunk, Words
from mminspect.memorymap import bitmap
from mminspect.memorymap.bits import looks_like_hardware, one_place
from mminspect.memorymap.layout import FREE_LISTS, PAGEBLOCK_BITS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import MIGRATETYPE_MASK, PB_MIGRATE_ISOLATE
from mminspect.memorymap.structpages import StructPages
from mminspect.memorymap.zones import FreeArea, Zone
from mminspect.rules.base import Rule, TallyCheck, Violation
from mminspect.rules.commits import commit

# Free blocks that are kept for a comparison of the lists, at 44 bytes each.
MAX_FOLLOWED = 1 << 20
SHOWN = 16
NO_LIST = -1


class Links(NamedTuple):
    """
    Free pages and how they are linked.

    :ivar address: Of ``page->lru``.
    """

    link: npt.NDArray[np.uint32]
    order: Words
    pfn: Words
    address: Words
    next: Words
    prev: Words


class Lists:
    """Collects the free pages of a walk."""

    def __init__(self, memory: MemoryMap) -> None:
        self._memory = memory
        self._counts: dict[tuple[int, int], int] = {}
        self._parts: list[Links] = []
        self._kept = 0
        self._unknown: set[int] = set()
        self._links = {memory.layout.link(z.node, z.index): z for z in memory.populated_zones}

    def count(self, chunk: Chunk) -> tuple[list[int], Links | None]:
        """Collect the free pages of a chunk, and the links of zones in it that can't be judged."""
        memory, layout = self._memory, self._memory.layout
        free = chunk.free_pages
        unknown = []
        if free is None or any(run.state >= DEFERRED and run.state != OFFLINE for run in chunk.runs):
            zones = memory.zones_spanning(chunk.start_pfn, chunk.end_pfn)
            unknown = [layout.link(zone.node, zone.index) for zone in zones]
        if free is None or not len(free.at):
            return unknown, None
        at, order = free.at, free.order
        if int(order.max()) > layout.max_order:
            possible = order <= np.uint64(layout.max_order)
            at, order = at[possible], order[possible]
        lru, word = layout.page.lru_offset, layout.word_bits // 8
        return unknown, Links(
            chunk.link[at],
            order,
            at.astype(np.uint64) + np.uint64(chunk.start_pfn),
            chunk.addresses(at) + np.uint64(lru),
            chunk.column(lru)[at].astype(np.uint64),
            chunk.column(lru + word)[at].astype(np.uint64),
        )

    def add(self, part: tuple[list[int], Links | None]) -> None:
        """Add the free pages of a chunk."""
        unknown, links = part
        self._unknown.update(unknown)
        if links is None:
            return
        self._kept += len(links.pfn)
        self._parts.append(links)
        if self._kept > MAX_FOLLOWED:
            for kept in self._parts:
                self._count(kept.link, kept.order)
            self._parts.clear()

    def _count(self, link: npt.NDArray[np.uint32], order: Words) -> None:
        # numpy.unique() would load numpy.ma, which takes longer.
        keys = np.sort(link.astype(np.uint64) << np.uint64(8) | order)
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        counts = np.diff(np.append(first, len(keys)))
        for key, count in zip(keys[first].tolist(), counts.tolist()):
            pair = (key >> 8, key & 0xFF)
            self._counts[pair] = self._counts.get(pair, 0) + count

    def _kinds(self, parts: Links) -> npt.NDArray[np.int64]:
        """
        Get the migratetypes of the pages' pageblocks, as ``get_pfnblock_migratetype()`` does.

        :return: By page; :data:`NO_LIST` where it isn't known or not compared.
        """
        layout = self._memory.layout
        result = np.full(len(parts.pfn), NO_LIST, np.int64)
        if not layout.free_lists_follow_pageblocks:
            return result
        if layout.pfn_section_shift is None:
            for link, zone in self._links.items():
                base = bitmap.pageblock_start_pfn(layout, zone.start_pfn)
                self._look_up(zone.pageblock_flags, base, parts.pfn, parts.link == link, result)
            return result
        # Pages come ascending.
        numbers = parts.pfn >> np.uint64(layout.pfn_section_shift)
        sections = self._memory.sections
        first = np.array([section.nr for section in sections], np.uint64)
        lows, highs = np.searchsorted(numbers, first), np.searchsorted(numbers, first, "right")
        for position in np.flatnonzero(lows < highs).tolist():
            section = sections[position]
            base = section.nr << layout.pfn_section_shift
            where = slice(int(lows[position]), int(highs[position]))
            self._look_up(section.pageblock_flags, base, parts.pfn, where, result)
        return result

    def _look_up(self, data: bytes, base: int, pfn: Words, where: Any, result: npt.NDArray[np.int64]) -> None:
        """Look up pageblocks in one bitmap, whose first is at ``base``."""
        layout = self._memory.layout
        if not data:
            return
        bits = bitmap.all_pageblock_bits(layout, data)
        block = (pfn[where] - np.uint64(base)) >> np.uint64(layout.pageblock_order)
        # A page below its zone has no such block.
        inside = block < len(bits)
        found = bits[np.where(inside, block, np.uint64(0)).astype(np.intp)]
        kind = (found & MIGRATETYPE_MASK).astype(np.int64)
        if layout.isolate_bit and "ISOLATE" in layout.migratetypes:
            kind[found & PB_MIGRATE_ISOLATE != 0] = layout.migratetypes.index("ISOLATE")
        result[where] = np.where(inside, kind, NO_LIST)

    def violations(self) -> Iterator[Violation]:
        """Compare the free pages with the lists."""
        if self._kept > MAX_FOLLOWED:
            yield self._not_followed()
        parts = Links(*(np.concatenate(column) for column in zip(*self._parts))) if self._parts else None
        if parts is not None:
            self._count(parts.link, parts.order)
        kinds = self._kinds(parts) if parts is not None else None
        for link, zone in self._links.items():
            if zone.state is None or link in self._unknown:
                continue
            of_zone = None
            if parts is not None and kinds is not None:
                of_zone = [column[parts.link == link] for column in (*parts, kinds)]
            for order, area in enumerate(zone.state.free_areas):
                counted = self._counts.get((link, order), 0)
                if counted != area.nr_free:
                    yield _violation(
                        zone,
                        order,
                        "count",
                        f"nr_free is {area.nr_free}, but {counted} free pages have this zone and order",
                        [],
                        {"nr_free": area.nr_free, "counted": counted},
                    )
                if self._kept <= MAX_FOLLOWED and (of_zone is not None or area.nr_free):
                    yield from self._follow(zone, order, area, of_zone)

    def _not_followed(self) -> Violation:
        zones = self._memory.populated_zones
        return Violation(
            NOTE,
            f"{self._kept} free blocks: their numbers were compared with nr_free, the lists themselves were not",
            {"problem": "not followed", "pages": self._kept},
            of=self._memory,
            pages=(min(zone.start_pfn for zone in zones), max(zone.end_pfn for zone in zones)),
        )

    def _follow(
        self, zone: Zone, order: int, area: FreeArea, of_zone: list[npt.NDArray[Any]] | None
    ) -> Iterator[Violation]:
        """
        Judge the lists of one order.

        :param of_zone: The columns of :class:`Links` and the migratetypes, of the zone's pages.
        """
        heads = np.array(area.heads, np.uint64)
        kinds = len(heads)
        columns = of_zone or [np.zeros(0, np.uint64)] * (len(Links._fields) + 1)
        *links, kind = (column[columns[1] == order] for column in columns)
        pages = Links(*links)
        # The heads first, then the pages.
        address = np.concatenate((heads, pages.address))
        following = np.concatenate((np.array(area.first, np.uint64), pages.next))
        before = np.concatenate((np.array(area.last, np.uint64), pages.prev))
        by_address = np.argsort(address, kind="stable")
        place = np.minimum(np.searchsorted(address[by_address], following), len(address) - 1)
        next_index = by_address[place]
        broken = address[next_index] != following
        broken |= before[next_index] != address
        if bool(broken.any()):
            yield self._broken(zone, order, heads, pages, np.flatnonzero(broken), (address, following, before))
        # A broken link ends a chain too; every page then leads to what ends its chain.
        lists = ends_of_chains(np.where(broken, np.arange(len(address)), next_index), kinds)
        lost = np.flatnonzero(lists[kinds:] == NO_LIST)
        if len(lost) and not bool(broken.any()):
            yield _violation(
                zone, order, "cycle", "free pages are linked to each other and to no list", pages.pfn[lost].tolist(), {}
            )
        wrong = np.flatnonzero((lists[kinds:] != NO_LIST) & (kind != NO_LIST) & (lists[kinds:] != kind))
        if len(wrong):
            name = self._kind_name
            first = int(wrong[0])
            detail = {"list": name(int(lists[kinds + first])), "pageblock": name(int(kind[first]))}
            what = f"free pages are on the list of {detail['list']}, but their pageblocks are {detail['pageblock']}"
            yield _violation(zone, order, "migratetype", what, pages.pfn[wrong].tolist(), detail)

    def _kind_name(self, number: int) -> str:
        names = self._memory.layout.migratetypes
        return names[number] if number < len(names) else str(number)

    def _broken(
        self,
        zone: Zone,
        order: int,
        heads: Words,
        pages: Links,
        where: npt.NDArray[np.intp],
        words: tuple[Words, Words, Words],
    ) -> Violation:
        address, following, before = words
        first = int(where[0])
        kinds = len(heads)
        if first < kinds:
            who = f"the head of the list of {self._kind_name(first)}"
        else:
            who = f"free page {int(pages.pfn[first - kinds]):#x}"
        pfns = pages.pfn[where[where >= kinds] - kinds].tolist()
        target = int(following[first])
        what = f"{who} is followed by {target:#x}, {self._place(target)}"
        difference = self._flipped(target, address[np.flatnonzero(before == address[first])])
        what += looks_like_hardware(difference, "the address of what follows it by its lru.prev")
        return _violation(
            zone, order, "link", what, pfns, {"next": target, **({"hardware": difference} if difference else {})}
        )

    def _flipped(self, target: int, really: Words) -> str | None:
        """
        Tell whether the word that leads to the next entry differs in one place from that entry's address.

        :param really: The entries that lead back.
        """
        found = StructPages(self._memory).find(target)
        # What can be another page's address can be a bug's.
        if len(really) != 1 or (found is not None and found.offset == self._memory.layout.page.lru_offset):
            return None
        return one_place(target, int(really[0]))

    def _place(self, address: int) -> str:
        for zone in self._links.values():
            for order, area in enumerate(zone.state.free_areas if zone.state is not None else ()):
                if address in area.heads:
                    return f"the head of a list of {zone}, order {order}"
        return "which isn't a free page of this zone and order that leads back"


def _violation(zone: Zone, order: int, problem: str, what: str, pfns: Sequence[int], more: dict[str, Any]) -> Violation:
    locked = zone.state is not None and zone.state.locked
    severity = WARNING if problem == "migratetype" else ERROR
    shown = sorted(pfns)[:SHOWN]
    named = tuple((pfn, pfn + (1 << order)) for pfn in shown)
    return Violation(
        NOTE if locked else severity,
        f"{zone}, order {order}: {what}" + ("; zone->lock is held, so the list may be half changed" if locked else ""),
        {"problem": problem, "order": order, "pages": len(pfns), "pfns": shown, **more},
        of=zone,
        pages=named[0] if named else None,
        named=named,
    )


def ends_of_chains(next_index: npt.NDArray[np.intp], heads: int) -> npt.NDArray[np.intp]:
    """
    Find out where each chain ends.

    :param next_index: What follows each element; elements that nothing follows have themselves.
    :param heads: So many elements at the start are heads, where chains end.
    :return: The head that each element leads to, or :data:`NO_LIST`.
    """
    count = len(next_index)
    reached = next_index.copy()
    reached[:heads] = np.arange(heads)
    # Each round doubles the steps, so that no chain is longer than what was done.
    for _ in range(count.bit_length()):
        reached = reached[reached]
    result: npt.NDArray[np.intp] = np.where(reached < heads, reached, NO_LIST)
    return result


RULE = Rule(
    summary="free lists that disagree with the free pages",
    functions=(
        "__add_to_free_list",
        "__del_page_from_free_list",
        "__rmqueue_smallest",
        "__free_one_page",
        "move_freepages",
    ),
    commits=(
        commit("7b086755fb8c", "pages on the list of another migratetype"),
        commit("787af64d05cd", "a page below the memory was taken for a buddy"),
    ),
    about=ZONE,
    needs=(PAGEBLOCK_BITS, FREE_LISTS),
    left_behind=("count", "link", "cycle"),
    checks=(TallyCheck(Lists),),
)
