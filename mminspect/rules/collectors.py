# SPDX-License-Identifier: LGPL-2.1-or-later
"""How each kind of check takes part in a walk: from what it sees in chunks to findings."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from mminspect.findings import Finding
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import merge
from mminspect.rules.base import Identify, KeyCheck, MapCheck, Match, PageCheck, Rule, TallyCheck

# Findings of a rule in a pageblock; where there are more of a kind, one stands for all.
MAX_IN_BLOCK = 32


class Collector:
    """
    Makes the findings of one check in one walk.

    :param check: The check.
    :param rule: The rule that it belongs to.
    :param memory: The kernel's memory map.
    :param identify: Says what lives at an address.
    """

    check: Any

    def __init__(self, check: Any, rule: Rule, memory: MemoryMap, identify: Identify) -> None:
        self.check = check
        self.rule = rule
        self.memory = memory
        self.identify = identify

    def open(self) -> Iterable[Finding]:
        """Get what is found before the walk."""
        return ()

    def look(self, chunk: Chunk) -> Any:
        """
        Look at one chunk, perhaps in another process.

        :return: What :meth:`take` is given. It can be pickled; nothing is remembered of the chunk.
        """

    def gap(self, start: int, end: int) -> None:
        """Take note of pfns between chunks, none of which is online."""

    def take(self, start: int, part: Any) -> Iterable[Finding]:
        """
        Get what is found in a chunk. Chunks come ascending, each once.

        :param start: The chunk's first pfn.
        :param part: What :meth:`look` returned.
        """
        return ()

    def close(self, complete: bool) -> Iterable[Finding]:
        """
        Get what is found at the end.

        :param complete: Whether the walk came to its end.
        """
        return ()


class _Joined(Collector):
    check: PageCheck

    def __init__(self, check: PageCheck, rule: Rule, memory: MemoryMap, identify: Identify) -> None:
        super().__init__(check, rule, memory, identify)
        self._pending: dict[Hashable, Match] = {}

    def look(self, chunk: Chunk) -> list[Match]:
        return list(self.check.check(chunk, self.memory))

    def take(self, start: int, part: list[Match]) -> Iterator[Finding]:
        return self._findings(join_matches(part, self._pending, start) if self.check.join else part)

    def close(self, complete: bool) -> Iterator[Finding]:
        return self._findings(self._pending.values())

    def _findings(self, matches: Iterable[Match]) -> Iterator[Finding]:
        alike = self.check.alike
        if alike is None:
            yield from map(self._finding, matches)
            return
        found = list(matches)
        if len(found) <= MAX_IN_BLOCK:
            yield from map(self._finding, found)
            return
        nr_pages = self.memory.layout.pageblock_nr_pages
        groups: dict[Hashable, list[Match]] = {}
        for match in found:
            groups.setdefault((match.start // nr_pages, alike(match, self.memory)), []).append(match)
        for group in groups.values():
            if len(group) > MAX_IN_BLOCK:
                yield self._crowd(group)
            else:
                yield from map(self._finding, group)

    def _crowd(self, group: list[Match]) -> Finding:
        """Make the finding that stands for many of a pageblock: it tells of the first, and names the pages of all."""
        group.sort()
        first = self.check.describe(group[0], self.memory, self.identify)
        ranges = merge(match[:2] for match in group)
        number = sum(end - start for start, end in ranges)
        pages = (ranges[0][0], ranges[-1][1])
        message = (
            f"{first.message}; the first of {len(group)} places of a pageblock, {number} pages in all, each wrong in "
            "its own way"
        )
        detail = {**first.detail, "pages": [list(pages) for pages in ranges]}
        violation = first._replace(message=message, detail=detail, pages=pages, named=tuple(ranges))
        return self.rule.finding(violation, self.memory, group[0])

    def _finding(self, match: Match) -> Finding:
        return self.rule.finding(self.check.describe(match, self.memory, self.identify), self.memory, match)


class _Gathered(Collector):
    check: KeyCheck

    def __init__(self, check: KeyCheck, rule: Rule, memory: MemoryMap, identify: Identify) -> None:
        super().__init__(check, rule, memory, identify)
        self._by_key: dict[Hashable, list[Match]] = {}

    def look(self, chunk: Chunk) -> list[Match]:
        return list(self.check.check(chunk, self.memory))

    def gap(self, start: int, end: int) -> None:
        self.take(start, self.check.check_gap(start, end, self.memory))

    def take(self, start: int, part: Iterable[Match]) -> Iterable[Finding]:
        for match in part:
            self._by_key.setdefault(match.key, []).append(match)
        return ()

    def close(self, complete: bool) -> Iterator[Finding]:
        described = (self.check.describe(key, found, self.memory) for key, found in self._by_key.items())
        return self.rule.findings(described, self.memory)


class _OfMap(Collector):
    check: MapCheck

    def open(self) -> Iterator[Finding]:
        return self.rule.findings(self.check.check(self.memory), self.memory)


class _Counted(Collector):
    check: TallyCheck

    def __init__(self, check: TallyCheck, rule: Rule, memory: MemoryMap, identify: Identify) -> None:
        super().__init__(check, rule, memory, identify)
        self._tally = check.tally(memory)

    def look(self, chunk: Chunk) -> Any:
        return self._tally.count(chunk)

    def take(self, start: int, part: Any) -> Iterable[Finding]:
        self._tally.add(part)
        return ()

    def close(self, complete: bool) -> Iterable[Finding]:
        return self.rule.findings(self._tally.violations(), self.memory) if complete else ()


# The kinds of checks of a walk.
COLLECTORS: dict[type, type[Collector]] = {
    PageCheck: _Joined,
    KeyCheck: _Gathered,
    MapCheck: _OfMap,
    TallyCheck: _Counted,
}


def join_matches(matches: Iterable[Match], pending: dict[Hashable, Match], start: int = 0) -> Iterator[Match]:
    """
    Join matches of equal key that touch.

    :param matches: Matches of one chunk, ascending.
    :param pending: The last match of each key so far; kept between calls.
    :param start: First pfn of the chunk. A pending match that ends before it is complete.
    :return: Iterator of matches that nothing can be joined to any more.
    """
    for key in [key for key, match in pending.items() if match.end < start]:
        yield pending.pop(key)
    for match in matches:
        key = match.link if match.key is None else match.key
        last = pending.get(key)
        if last is not None and last.end == match.start:
            pending[key] = last._replace(end=match.end, reserved=last.reserved and match.reserved)
            continue
        if last is not None:
            yield last
        pending[key] = match
