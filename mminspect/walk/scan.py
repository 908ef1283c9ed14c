# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scan a kernel: a vmcore, or the running one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Callable,
)

from mminspect.consequences.attach import Judge, attach
from mminspect.findings import Report
from mminspect.kernel.identify import what_is
from mminspect.layout.read import read_memory_map
from mminspect.memmap.calibrate import calibrate
from mminspect.memmap.percpu import with_per_cpu_pages
from mminspect.memmap.reader import Memmap
from mminspect.program.target import Target
from mminspect.rules.base import Rule
from mminspect.rules.registry import select_rules
from mminspect.typeinfo.load import TypeSource
from mminspect.walk import parallel

if TYPE_CHECKING:
    from mminspect.walk.live import Prepared
from mminspect.walk.engine import Progress, Scan
from mminspect.walk.report import _report

# Pages from which on more than one process is faster: 32 GiB of 4 KiB pages, 4 GiB where they are compressed.
MANY_PAGES = 1 << 23
MANY_COMPRESSED_PAGES = 1 << 20


def helpful_jobs(target: Target, pages: int) -> int:
    """
    Get the number of processes that a vmcore is read fastest with.

    :param pages: Number of its online pages.
    """
    is_compressed = target.core is not None and target.core.format != "elf"
    many = MANY_COMPRESSED_PAGES if is_compressed else MANY_PAGES
    return parallel.usable_cpus() if pages >= many else 1


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

    :param types: What :func:`mminspect.typeinfo.load.load` returned.
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
        calibrate(memmap, memory)
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
    from mminspect.walk.live import prepare, scan_live

    if prepared is None:
        prepared = prepare(target, pageblock_order)
    calibrate(Memmap(target.prog, prepared.memory, live=True), prepared.memory)
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
