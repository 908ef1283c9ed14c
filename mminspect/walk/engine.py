# SPDX-License-Identifier: LGPL-2.1-or-later
"""The scan: memmap chunks through the rules to findings."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from typing import Any, Callable, NamedTuple

from mminspect.consequences.attach import Outcomes, attach
from mminspect.findings import Finding, sort_key
from mminspect.memmap.chunk import EXCLUDED, OFFLINE, Chunk
from mminspect.memmap.reader import Memmap
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.rules.base import Match, Rule, Tally, WhatIs, join_matches
from mminspect.walk import parallel
from mminspect.walk.spill import Findings

Progress = Callable[[int], None]


class Checked(NamedTuple):
    """
    What the rules matched in one chunk.

    :ivar examined: Pages whose entries were read.
    :ivar unreadable: Pages whose entries the target doesn't hold.
    :ivar matches: Matches by rule, in the order of the scan's rules.
    :ivar counts: What the tallies counted, in the order of the rules that have one.
    """

    start_pfn: int
    end_pfn: int
    examined: int
    unreadable: int
    matches: tuple[list[Match], ...]
    counts: tuple[Any, ...] = ()


def check_map(memory: MemoryMap, rules: Sequence[Rule]) -> list[Finding]:
    """Apply the rules that need no struct page."""
    return [finding for rule in rules if rule.check_map is not None for finding in rule.check_map(memory)]


class Scan:
    """
    One walk over all online pageblocks.

    :param memory: The kernel's memory map.
    :param memmap: Reads its struct pages.
    :param rules: Rules to apply.
    :param look: Says what lives at an address.
    :param pace: Called with the bytes of memmap after each chunk; may sleep.
    :param stop: Asked after each chunk whether to end the walk there.
    :param tally: Whether counts mean anything: not while the kernel runs.
    :ivar stopped: Whether the walk was ended early.
    """

    def __init__(
        self,
        memory: MemoryMap,
        memmap: Memmap,
        rules: Sequence[Rule],
        look: WhatIs,
        pace: Progress | None = None,
        stop: Callable[[], bool] | None = None,
        tally: bool = True,
    ) -> None:
        self._memory = memory
        self._memmap = memmap
        self._rules = rules
        self._look = look
        self._pace = pace
        self._stop = stop
        self._tally = tally
        self.stopped = False
        self.pages_examined = 0
        self.pages_unreadable = 0
        self.pageblocks = 0

    def findings(self, progress: Progress | None = None, jobs: int = 1, outcomes: Outcomes | None = None) -> Findings:
        """
        Walk the memmap.

        :param progress: Called with the number of pages after each chunk.
        :param jobs: Number of processes that read and check. The findings are the same for any.
        :param outcomes: Says what the kernel would do; without it, findings have no consequences.
        :return: Findings, sorted by start pfn, end pfn and rule.
        """
        found = Findings()
        with contextlib.closing(self.walk(progress, jobs)) as walk:
            for finding in walk if outcomes is None else attach(walk, outcomes):
                found.add(finding)
        return found

    def walk(self, progress: Progress | None = None, jobs: int = 1) -> Generator[Finding, None, None]:
        """Walk the memmap; as :meth:`findings`, but the findings come as they are found."""
        rules = [rule for rule in self._rules if self._tally and rule.tally is not None]
        tallies = [rule.tally(self._memory) for rule in rules if rule.tally is not None]

        def check(chunk: Chunk) -> Checked:
            return self.check(chunk)._replace(counts=tuple(tally.count(chunk) for tally in tallies))

        def work(window: tuple[int, int, Section]) -> Iterator[Checked]:
            return map(check, self._memmap.read(*window))

        with contextlib.ExitStack() as stack:
            results: Iterator[Checked]
            if jobs <= 1:
                results = map(check, self._memmap.chunks())
            else:
                results = stack.enter_context(parallel.run(work, self._memmap.windows, jobs))
            # The other processes are at work meanwhile.
            yield from check_map(self._memory, self._rules)
            yield from self._walk(self._add(results, tallies), progress)
        if not self.stopped:
            for tally in tallies:
                yield from tally.findings()

    @staticmethod
    def _add(results: Iterable[Checked], tallies: Sequence[Tally]) -> Iterator[Checked]:
        """Add up what was counted in each chunk."""
        for result in results:
            for tally, part in zip(tallies, result.counts):
                tally.add(part)
            yield result

    def findings_in(self, chunks: Iterable[Chunk], progress: Progress | None = None) -> list[Finding]:
        """
        Apply the rules to some chunks.

        :param chunks: Ascending. Gaps between them count as holes.
        """
        return sorted(self._walk(map(self.check, chunks), progress), key=sort_key)

    def check(self, chunk: Chunk) -> Checked:
        """Apply the rules to one chunk."""
        examined = unreadable = 0
        for run in chunk.runs():
            if run.state < EXCLUDED:
                examined += run.end - run.start
            elif run.state != OFFLINE:
                unreadable += run.end - run.start
        matches = tuple(list(rule.check(chunk, self._memory)) for rule in self._rules)
        return Checked(chunk.start_pfn, chunk.end_pfn, examined, unreadable, matches)

    def _walk(self, results: Iterable[Checked], progress: Progress | None) -> Iterator[Finding]:
        pending: dict[str, dict[Hashable, Match]] = {rule.id: {} for rule in self._rules}
        gathered: dict[str, dict[Hashable, list[Match]]] = {rule.id: {} for rule in self._rules}
        order = self._memory.layout.pageblock_order
        end = 0
        last_block = -1
        for result in self._until_stopped(results):
            if result.start_pfn > end:
                self._gather_gap(gathered, end, result.start_pfn)
            end = result.end_pfn
            for rule, matches in zip(self._rules, result.matches):
                if rule.describe_all is not None:
                    self._gather(gathered[rule.id], matches)
                    continue
                joined = join_matches(matches, pending[rule.id], result.start_pfn) if rule.join else matches
                for match in joined:
                    yield rule.describe(match, self._memory, self._look)
            self.pages_examined += result.examined
            self.pages_unreadable += result.unreadable
            first_block = result.start_pfn >> order
            self.pageblocks += ((end - 1) >> order) - max(first_block, last_block + 1) + 1
            last_block = (end - 1) >> order
            if progress is not None:
                progress(end - result.start_pfn)
        highest = max((zone.end_pfn for zone in self._memory.zones), default=0)
        if highest > end and not self.stopped:
            self._gather_gap(gathered, end, highest)
        for rule in self._rules:
            for match in pending[rule.id].values():
                yield rule.describe(match, self._memory, self._look)
            for key, matches in gathered[rule.id].items():
                assert rule.describe_all is not None
                yield rule.describe_all(key, matches, self._memory)

    def _until_stopped(self, results: Iterable[Checked]) -> Iterator[Checked]:
        """Pass results on, at the pace that was asked for, until somebody says that it's enough."""
        for result in results:
            yield result
            if self._stop is not None and self._stop():
                self.stopped = True
                return
            if self._pace is not None:
                self._pace((result.end_pfn - result.start_pfn) * self._memory.layout.page_struct_size)

    @staticmethod
    def _gather(by_key: dict[Hashable, list[Match]], matches: Iterable[Match]) -> None:
        for match in matches:
            by_key.setdefault(match.key, []).append(match)

    def _gather_gap(self, gathered: dict[str, dict[Hashable, list[Match]]], start: int, end: int) -> None:
        for rule in self._rules:
            if rule.check_gap is not None:
                self._gather(gathered[rule.id], rule.check_gap(start, end, self._memory))
