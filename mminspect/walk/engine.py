# SPDX-License-Identifier: LGPL-2.1-or-later
"""The scan: memmap chunks through the rules to findings."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Callable, NamedTuple

from mminspect.consequences.attach import Outcomes, attach
from mminspect.findings import Finding, sort_key
from mminspect.memmap.chunk import EXCLUDED, OFFLINE, Chunk
from mminspect.memmap.reader import Memmap
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.rules.base import Identify, KeyCheck, MapCheck, PageCheck, ProcCheck, Rule, TallyCheck, applicable
from mminspect.rules.collectors import COLLECTORS, Collector
from mminspect.walk import parallel
from mminspect.walk.limits import Progress
from mminspect.walk.spill import Findings

# Makes a collector besides those of the rules.
Observe = Callable[[MemoryMap], Collector]
# The kinds of checks of a walk, and those of them that mean something where the kernel runs meanwhile.
NEEDS_PROC = "it judges the running kernel only"
NOT_WHILE_RUNNING = "what it judges changes while the kernel runs"
ALL_KINDS = (MapCheck, PageCheck, KeyCheck, TallyCheck)
LIVE_KINDS = (MapCheck, PageCheck, KeyCheck)


class Checked(NamedTuple):
    """
    What was seen in one chunk.

    :ivar examined: Pages whose entries were read.
    :ivar unreadable: Pages whose entries the target doesn't hold.
    :ivar parts: What each collector saw.
    """

    start_pfn: int
    end_pfn: int
    examined: int
    unreadable: int
    parts: tuple[Any, ...]


def check_map(memory: MemoryMap, rules: Sequence[Rule]) -> list[Finding]:
    """Apply the checks that need no struct page."""
    checks = ((rule, check) for rule in applicable(rules, memory) for check in rule.checks)
    return [
        finding
        for rule, check in checks
        if isinstance(check, MapCheck)
        for finding in rule.findings(check.check(memory), memory)
    ]


class Scan:
    """
    One walk over all online pageblocks.

    :param memory: The kernel's memory map.
    :param memmap: Reads its struct pages.
    :param rules: Rules to apply.
    :param look: Says what lives at an address.
    :param pace: Called with the bytes of memmap after each chunk; may sleep.
    :param stop: Asked after each chunk whether to end the walk there.
    :param kinds: Kinds of the rules' checks to apply.
    :param observe: Makes what else takes part in the walk.
    :ivar stopped: Whether the walk was ended early.
    """

    def __init__(
        self,
        memory: MemoryMap,
        memmap: Memmap,
        rules: Sequence[Rule],
        look: Identify,
        pace: Progress | None = None,
        stop: Callable[[], bool] | None = None,
        kinds: tuple[type, ...] = ALL_KINDS,
        observe: Observe | None = None,
    ) -> None:
        self._memory = memory
        self._memmap = memmap
        self._rules = applicable(rules, memory)
        self._look = look
        self._pace = pace
        self._stop = stop
        self._kinds = kinds
        self._observe = observe
        self.stopped = False
        self.pages_examined = 0
        self.pages_unreadable = 0
        self.pageblocks = 0

    def skipped(self) -> dict[str, str]:
        """Say of each rule that judged nothing why it didn't."""
        result = {}
        for rule in self._rules:
            why = self._memory.layout.why_unknown(*rule.needs)
            if why is not None:
                result[rule.id] = why
            elif not any(isinstance(check, self._kinds) for check in rule.checks):
                of_live = any(isinstance(check, ProcCheck) for check in rule.checks)
                result[rule.id] = NEEDS_PROC if of_live else NOT_WHILE_RUNNING
        return result

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
        collectors = self._collectors()

        def check(chunk: Chunk) -> Checked:
            return self._check(chunk, collectors)

        def work(window: tuple[int, int, Section]) -> Iterator[Checked]:
            return map(check, self._memmap.read(*window))

        with contextlib.ExitStack() as stack:
            results: Iterator[Checked]
            if jobs <= 1:
                results = map(check, self._memmap.chunks())
            else:
                results = stack.enter_context(parallel.run(work, self._memmap.windows, jobs))
            # The other processes are at work meanwhile.
            for collector in collectors:
                yield from collector.open()
            yield from self._walk(results, collectors, progress)

    def findings_in(self, chunks: Iterable[Chunk], progress: Progress | None = None) -> list[Finding]:
        """
        Apply the rules to some chunks.

        :param chunks: Ascending. Gaps between them count as holes.
        """
        collectors = self._collectors()
        results = (self._check(chunk, collectors) for chunk in chunks)
        return sorted(self._walk(results, collectors, progress), key=sort_key)

    def _collectors(self) -> list[Collector]:
        collectors = [
            COLLECTORS[type(check)](check, rule, self._memory, self._look)
            for rule in self._rules
            for check in rule.checks
            if isinstance(check, self._kinds)
        ]
        return collectors if self._observe is None else [*collectors, self._observe(self._memory)]

    @staticmethod
    def _check(chunk: Chunk, collectors: Sequence[Collector]) -> Checked:
        """Look at one chunk."""
        examined = unreadable = 0
        for run in chunk.runs:
            if run.state < EXCLUDED:
                examined += run.end - run.start
            elif run.state != OFFLINE:
                unreadable += run.end - run.start
        parts = tuple(collector.look(chunk) for collector in collectors)
        return Checked(chunk.start_pfn, chunk.end_pfn, examined, unreadable, parts)

    def _walk(
        self, results: Iterable[Checked], collectors: Sequence[Collector], progress: Progress | None
    ) -> Iterator[Finding]:
        order = self._memory.layout.pageblock_order
        end = 0
        last_block = -1
        for result in self._until_stopped(results):
            if result.start_pfn > end:
                for collector in collectors:
                    collector.gap(end, result.start_pfn)
            end = result.end_pfn
            for collector, part in zip(collectors, result.parts):
                yield from collector.take(result.start_pfn, part)
            self.pages_examined += result.examined
            self.pages_unreadable += result.unreadable
            first_block = result.start_pfn >> order
            self.pageblocks += ((end - 1) >> order) - max(first_block, last_block + 1) + 1
            last_block = (end - 1) >> order
            if progress is not None:
                progress(end - result.start_pfn)
        highest = max((zone.end_pfn for zone in self._memory.zones), default=0)
        for collector in collectors:
            if highest > end and not self.stopped:
                collector.gap(end, highest)
            yield from collector.close(complete=not self.stopped)

    def _until_stopped(self, results: Iterable[Checked]) -> Iterator[Checked]:
        """Pass results on, at the pace that was asked for, until somebody says that it's enough."""
        for result in results:
            yield result
            if self._stop is not None and self._stop():
                self.stopped = True
                return
            if self._pace is not None:
                self._pace((result.end_pfn - result.start_pfn) * self._memory.layout.page.size)
