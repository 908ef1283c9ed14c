# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Scanning a kernel that runs.

It changes while it is read. A finding counts only if a second, independent read shows it again unchanged; and all
of it only if nodes, zones and sections were the same before and after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

from drgn import FaultError

from mminspect.errors import LayoutError
from mminspect.findings import Finding, sort_key
from mminspect.kernel.kernel import Kernel
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.proc import ProcFiles
from mminspect.rules.base import ProcCheck, Rule
from mminspect.walk.engine import LIVE_KINDS, Observe, Scan, check_map
from mminspect.walk.limits import Limits, Progress

# How often a scan is begun again because memory was plugged or unplugged meanwhile.
MAX_ATTEMPTS = 5
RETRY_SECONDS = 0.5


def same_map(one: MemoryMap, other: MemoryMap) -> bool:
    """Tell whether no node, zone or section came, went or changed its size."""

    def shape(memory: MemoryMap) -> tuple[object, ...]:
        zones = [(z.node, z.index, z.start_pfn, z.spanned, z.present, z.contiguous) for z in memory.zones]
        nodes = [(n.nid, n.start_pfn, n.spanned) for n in memory.nodes]
        return zones, nodes, memory.sections

    return shape(one) == shape(other)


def _identity(finding: Finding) -> str:
    """Get what must be the same in a second read: all but the words, and what lives at the address of a write."""
    data = finding.as_dict()
    del data["message"]
    data["detail"] = {key: value for key, value in finding.detail.items() if key != "there"}
    return json.dumps(data, sort_keys=True)


def confirm(kernel: Kernel, rules: Sequence[Rule], found: Sequence[Finding], after: MemoryMap) -> list[Finding]:
    """
    Read the pages of findings again.

    :param found: Findings of a first read.
    :param after: The memory map, read again.
    :return: Those that were there again, unchanged.
    """
    if not found:
        return []
    memmap = kernel.memmap
    ranges = [
        (start, end, section)
        for start, end, section in memmap.ranges()
        if any(f.start_pfn < end and start < f.end_pfn for f in found)
    ]
    chunks = (memmap.chunk(start, end, section) for start, end, section in ranges)
    again = {
        _identity(f) for f in Scan(kernel.memory, memmap, rules, kernel.identify, kinds=LIVE_KINDS).findings_in(chunks)
    }
    again.update(_identity(f) for f in check_map(after, rules))
    return [finding for finding in found if _identity(finding) in again]


def check_proc(memory: MemoryMap, files: ProcFiles, rules: Sequence[Rule]) -> Iterator[Finding]:
    """Apply the rules that compare the memory map with what the kernel says."""
    for rule in rules:
        for check in rule.checks:
            if isinstance(check, ProcCheck):
                yield from rule.findings(check.check(memory, files), memory)


class LiveScan(NamedTuple):
    """
    The result of a scan of the running kernel.

    :ivar kernel: The kernel as it was during the walk.
    :ivar walk: The walk that counted the pages.
    :ivar transient: Findings that a second read did not confirm.
    """

    kernel: Kernel
    walk: Scan
    findings: list[Finding]
    transient: int


def scan(
    kernel: Kernel,
    rules: Sequence[Rule],
    limits: Limits,
    progress: Callable[[int], Progress] | None = None,
    observe: Observe | None = None,
) -> LiveScan:
    """
    Scan the running kernel until nodes, zones and sections stand still for the time of a scan.

    :param kernel: The kernel as it was while the process was privileged.
    :param progress: As in :func:`mminspect.walk.scan.scan`; likewise ``observe``.
    :raises LayoutError: if memory changes all the time, or can't be read at any attempt.
    """
    files = kernel.proc_files
    _ = kernel.memmap  # calibrates it
    pace = limits.pace()
    failure: Exception | None = None
    # What was read while privileged is old by now where scans are repeated.
    known: Kernel | None = None
    for _attempt in range(MAX_ATTEMPTS):
        try:
            now = known if known is not None else kernel.reread()
            walk = Scan(now.memory, now.memmap, rules, now.identify, pace, limits.stop, LIVE_KINDS, observe)
            total = sum(end - start for start, end, _ in now.memmap.ranges())
            found = walk.findings(progress(total) if progress is not None else None)
            after = kernel.reread()
            kept = confirm(now, rules, found, after.memory)
        except (FaultError, LayoutError) as e:
            # Memory that went away while it was read, or the tables that describe it.
            failure, known = e, None
            time.sleep(RETRY_SECONDS)
            continue
        if same_map(now.memory, after.memory) or walk.stopped:
            transient = len(found) - len(kept)
            if same_map(now.memory, kernel.memory):
                kept += check_proc(now.memory, files, rules)
                kept.sort(key=sort_key)
            return LiveScan(now, walk, kept, transient)
        failure, known = None, after
    if failure is not None:
        raise LayoutError(f"the memory map could not be read in {MAX_ATTEMPTS} attempts: {failure}") from failure
    raise LayoutError(f"memory was plugged or unplugged during each of {MAX_ATTEMPTS} scans; try again later")
