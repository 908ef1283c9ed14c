# SPDX-License-Identifier: LGPL-2.1-or-later
"""The scan: memmap chunks through the rules to findings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    NamedTuple,
)

from mminspect import memmap as memmap_
from mminspect import parallel
from mminspect.consequences.attach import Judge, attach
from mminspect.findings import SEVERITIES, Finding, Report, sort_key
from mminspect.layout import read_memory_map
from mminspect.layout.percpu import with_per_cpu_pages
from mminspect.layout.records import EXCLUDED, OFFLINE, Chunk, MemoryMap, Section
from mminspect.memmap import Memmap
from mminspect.rules import Match, Rule, Tally, WhatIs, join_matches, select_rules
from mminspect.spill import Findings
from mminspect.target import Target
from mminspect.typeinfo import TypeSource
from mminspect.whatis import what_is

if TYPE_CHECKING:
    from mminspect.live.rescan import Prepared

Progress = Callable[[int], None]

# Pages from which on more than one process is faster: 32 GiB of 4 KiB pages, 4 GiB where they are compressed.
MANY_PAGES = 1 << 23
MANY_COMPRESSED_PAGES = 1 << 20


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


def helpful_jobs(target: Target, pages: int) -> int:
    """
    Get the number of processes that a vmcore is read fastest with.

    :param pages: Number of its online pages.
    """
    is_compressed = target.core is not None and target.core.format != "elf"
    many = MANY_COMPRESSED_PAGES if is_compressed else MANY_PAGES
    return parallel.usable_cpus() if pages >= many else 1


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

    def findings(self, progress: Progress | None = None, jobs: int = 1, judge: Judge | None = None) -> Findings:
        """
        Walk the memmap.

        :param progress: Called with the number of pages after each chunk.
        :param jobs: Number of processes that read and check. The findings are the same for any.
        :param judge: Adds the consequences; without it, findings have none.
        :return: Findings, sorted by start pfn, end pfn and rule.
        """
        found = Findings()
        with contextlib.closing(self.walk(progress, jobs)) as walk:
            for finding in walk if judge is None else attach(walk, judge):
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


def summarize(scan: Scan, rules: Sequence[Rule], findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    """Count pages and findings, as the report's ``summary`` has it."""
    by_rule = {rule.id: {"findings": 0, "pages": 0} for rule in rules}
    by_severity = dict.fromkeys(reversed(SEVERITIES), 0)
    if not isinstance(findings, Findings):
        counted = Findings()
        for finding in findings:
            counted.add(finding)
        findings = counted
    for rule_id, (number, pages) in findings.by_rule.items():
        by_rule[rule_id] = {"findings": number, "pages": pages}
    by_severity.update(findings.by_severity)
    return {
        "pages_examined": scan.pages_examined,
        "pages_unreadable": scan.pages_unreadable,
        "pageblocks": scan.pageblocks,
        "by_rule": by_rule,
        "by_severity": by_severity,
        "elapsed_seconds": round(seconds, 3),
    }


def describe_target(target: Target, memory: MemoryMap, types: TypeSource) -> dict[str, Any]:
    """Describe the kernel and its layout, as the report's ``target`` has it."""
    layout = memory.layout
    flags = layout.flags
    return {
        "kind": target.kind,
        "path": target.path,
        "release": layout.release,
        "machine": layout.machine,
        "page_size": layout.page_size,
        "memory_model": layout.memory_model,
        "pageblock_order": layout.pageblock_order,
        "pageblock_order_from": layout.pageblock_order_from,
        "bits_per_pageblock": layout.bits_per_pageblock,
        "types_from": types.types_from,
        "page_flags_layout": {
            "section": {"shift": flags.section.shift, "width": flags.section.width},
            "node": {"shift": flags.node.shift, "width": flags.node.width},
            "zone": {"shift": flags.zone.shift, "width": flags.zone.width},
            "node_not_in_page_flags": flags.node_not_in_page_flags,
            "flags_type": "memdesc_flags_t" if flags.memdesc else "unsigned long",
        },
        "struct_page_size": layout.page_struct_size,
    }


def describe_zones(memory: MemoryMap) -> list[dict[str, Any]]:
    """List the zones that span pages, as the report's ``zones`` has it."""
    return [
        {
            "node": zone.node,
            "index": zone.index,
            "name": zone.name,
            "start_pfn": zone.start_pfn,
            "end_pfn": zone.end_pfn,
            "spanned": zone.spanned,
            "present": zone.present,
            "managed": zone.managed,
            "contiguous": zone.contiguous,
        }
        for zone in memory.populated_zones
    ]


@dataclass(frozen=True)
class Gentleness:
    """
    How a scan treats the machine and its user.

    :ivar max_rate: Bytes of memmap to read in a second at most, ``None`` for no limit.
    :ivar stop: Asked after each chunk whether to end the walk with what was found so far.
    """

    max_rate: int | None = None
    stop: Callable[[], bool] | None = None

    def pace(self) -> Progress | None:
        """Get a function that sleeps as long as the rate asks for."""
        if self.max_rate is None:
            return None
        rate = self.max_rate
        start = time.monotonic()
        done = 0

        def sleep(size: int) -> None:
            nonlocal done
            done += size
            time.sleep(max(0.0, done / rate - (time.monotonic() - start)))

        return sleep


NO_LIMITS = Gentleness()


def scan_target(
    target: Target,
    types: TypeSource,
    rules: Sequence[Rule] | None = None,
    pageblock_order: int | None = None,
    progress: Callable[[int], Progress] | None = None,
    gentleness: Gentleness = NO_LIMITS,
    prepared: Prepared | None = None,
    jobs: int | None = 1,
) -> Report:
    """
    Scan a target that has types.

    :param types: What :func:`mminspect.typeinfo.load` returned.
    :param rules: Rules to apply; all by default.
    :param pageblock_order: Overrides what the kernel says.
    :param progress: Called with the number of pages before the walk; returns a function that is called with the
        number of pages after each chunk.
    :param prepared: For the running kernel: what was read while privileged.
    :param jobs: Number of processes that read and check a vmcore, ``None`` for what helps. The running kernel is read
        by one, and so is what is read at a limited rate.
    :raises mminspect.errors.MminspectError: if the target can't be analysed.
    """
    start = time.monotonic()
    rules = select_rules() if rules is None else rules
    if target.kind == "live":
        return _scan_live(target, types, rules, pageblock_order, progress, gentleness, prepared, start)
    with target.kept_whole():
        memory = read_memory_map(target, pageblock_order)
        memmap = Memmap(target.prog, memory, direct=target.direct)
        memmap_.calibrate(memmap, memory)
        if any(rule.per_cpu for rule in rules):
            memory = with_per_cpu_pages(target, memory)
        look = what_is(target, memory)
        scan = Scan(memory, memmap, rules, look, gentleness.pace(), gentleness.stop)
        total = sum(end - first for first, end, _ in memmap.ranges())
        if jobs is None:
            jobs = helpful_jobs(target, total)
        if gentleness.max_rate is not None:
            jobs = 1
        judge = Judge(target, memory, memmap, look)
        findings = scan.findings(progress(total) if progress is not None else None, jobs, judge)
        return _report(target, memory, types, scan, rules, findings, start)


def _scan_live(
    target: Target,
    types: TypeSource,
    rules: Sequence[Rule],
    pageblock_order: int | None,
    progress: Callable[[int], Progress] | None,
    gentleness: Gentleness,
    prepared: Prepared | None,
    start: float,
) -> Report:
    from mminspect.live.rescan import prepare, scan_live

    if prepared is None:
        prepared = prepare(target, pageblock_order)
    memmap_.calibrate(Memmap(target.prog, prepared.memory, live=True), prepared.memory)
    result = scan_live(
        target,
        prepared,
        rules,
        lambda memory: what_is(target, memory),
        progress,
        gentleness.pace(),
        gentleness.stop,
    )
    memmap = Memmap(target.prog, result.memory, live=True)
    findings = list(attach(result.findings, Judge(target, result.memory, memmap, what_is(target, result.memory))))
    report = _report(target, result.memory, types, result.scan, rules, findings, start)
    report.summary["transient"] = result.transient
    return report


def _report(
    target: Target,
    memory: MemoryMap,
    types: TypeSource,
    scan: Scan,
    rules: Sequence[Rule],
    findings: Sequence[Finding],
    start: float,
) -> Report:
    summary = summarize(scan, rules, findings, time.monotonic() - start)
    if scan.stopped:
        summary["partial"] = True
    return Report(describe_target(target, memory, types), describe_zones(memory), summary, findings)
