# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scan a kernel: a vmcore, or the running one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable

from mminspect.consequences.attach import Outcomes, attach
from mminspect.findings import Report
from mminspect.kernel.kernel import Kernel
from mminspect.program.target import Target
from mminspect.rules.base import ProcCheck, Rule
from mminspect.rules.registry import select_rules
from mminspect.walk import live, parallel
from mminspect.walk.engine import Observe, Scan
from mminspect.walk.limits import Limits, Progress
from mminspect.walk.report import make_report
from mminspect.walk.spill import Findings

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


def wanted(rules: Sequence[Rule]) -> tuple[bool, bool, bool]:
    """Tell what :meth:`mminspect.kernel.kernel.Kernel.memory_for` must read for some rules."""
    return (
        any(rule.per_cpu for rule in rules),
        any(rule.device for rule in rules),
        any(rule.lru for rule in rules),
    )


def scan(
    kernel: Kernel,
    rules: Sequence[Rule] | None = None,
    limits: Limits | None = None,
    progress: Callable[[int], Progress] | None = None,
    observe: Observe | None = None,
) -> Report:
    """
    Scan a kernel.

    :param rules: Rules to apply; all by default.
    :param limits: What the scan may take.
    :param progress: Called with the number of pages before the walk; returns a function that is called with the
        number of pages after each chunk.
    :param observe: Called with the memory map before each walk; makes what takes part in it besides the rules.
    :raises mminspect.errors.MminspectError: if the kernel can't be analyzed.
    """
    start = time.monotonic()
    rules = select_rules() if rules is None else rules
    limits = limits or Limits()
    if kernel.is_live:
        return _scan_live(kernel, rules, limits, progress, start, observe)
    with kernel.target.kept_whole():
        memmap = kernel.memmap
        memory = kernel.memory_for(*wanted(rules))
        walk = Scan(memory, memmap, rules, kernel.identify, limits.pace(), limits.stop, observe=observe)
        total = sum(end - first for first, end, _ in memmap.ranges())
        jobs = helpful_jobs(kernel.target, total) if limits.jobs is None else limits.jobs
        if limits.max_rate is not None:
            jobs = 1
        findings = walk.findings(progress(total) if progress is not None else None, jobs, Outcomes(kernel))
        return make_report(kernel, walk, rules, findings, start)


def _scan_live(
    kernel: Kernel,
    rules: Sequence[Rule],
    limits: Limits,
    progress: Callable[[int], Progress] | None,
    start: float,
    observe: Observe | None,
) -> Report:
    result = live.scan(kernel, rules, limits, progress, observe)
    findings = Findings()
    for finding in attach(result.findings, Outcomes(result.kernel)):
        findings.add(finding)
    report = make_report(result.kernel, result.walk, rules, findings, start)
    report.summary["transient"] = result.transient
    for rule in rules if kernel.target.is_here else ():
        # They took part beside the walk.
        if any(isinstance(check, ProcCheck) for check in rule.checks):
            report.summary["skipped"].pop(rule.id, None)
    return report
