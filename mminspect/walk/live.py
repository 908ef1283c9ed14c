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
from dataclasses import dataclass
from typing import Callable

from drgn import FaultError

from mminspect.errors import LayoutError
from mminspect.findings import Finding, sort_key
from mminspect.layout.read import read_memory_map
from mminspect.memmap.reader import Memmap
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.proc import ProcFiles
from mminspect.program.target import Target
from mminspect.rules.base import Identify, ProcCheck, Rule
from mminspect.walk.engine import LIVE_KINDS, Progress, Scan, check_map
from mminspect.walk.proc import read_proc_files

# How often a scan is begun again because memory was plugged or unplugged meanwhile.
MAX_ATTEMPTS = 5
RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Prepared:
    """
    What is read while the process is still privileged.

    :ivar memory: The memory map.
    :ivar files: The kernel's files, read after it.
    """

    memory: MemoryMap
    files: ProcFiles


def prepare(target: Target, pageblock_order: int | None = None) -> Prepared:
    """Read what needs privileges."""
    memory = read_memory_map(target, pageblock_order)
    return Prepared(memory, read_proc_files(memory.layout.page_size))


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


def confirm(
    memory: MemoryMap,
    memmap: Memmap,
    rules: Sequence[Rule],
    look: Identify,
    found: Sequence[Finding],
    after: MemoryMap,
) -> list[Finding]:
    """
    Read the pages of findings again.

    :param found: Findings of a first read.
    :param after: The memory map, read again.
    :return: Those that were there again, unchanged.
    """
    if not found:
        return []
    ranges = [
        (start, end, section)
        for start, end, section in memmap.ranges()
        if any(f.start_pfn < end and start < f.end_pfn for f in found)
    ]
    chunks = (memmap.chunk(start, end, section) for start, end, section in ranges)
    again = {_identity(f) for f in Scan(memory, memmap, rules, look, kinds=LIVE_KINDS).findings_in(chunks)}
    again.update(_identity(f) for f in check_map(after, rules))
    return [finding for finding in found if _identity(finding) in again]


def check_proc(memory: MemoryMap, files: ProcFiles, rules: Sequence[Rule]) -> Iterator[Finding]:
    """Apply the rules that compare the memory map with what the kernel says."""
    for rule in rules:
        for check in rule.checks:
            if isinstance(check, ProcCheck):
                yield from rule.findings(check.check(memory, files), memory)


@dataclass
class LiveScan:
    """
    The result of a scan of the running kernel.

    :ivar scan: The walk that counted the pages.
    :ivar transient: Findings that a second read didn't show again.
    """

    memory: MemoryMap
    scan: Scan
    findings: list[Finding]
    transient: int


def scan_live(
    target: Target,
    prepared: Prepared,
    rules: Sequence[Rule],
    make_look: Callable[[MemoryMap], Identify],
    progress: Callable[[int], Progress] | None,
    pace: Progress | None,
    stop: Callable[[], bool] | None,
) -> LiveScan:
    """
    Scan the running kernel until nodes, zones and sections stand still for the time of a scan.

    :param pace: Called with the bytes of memmap after each chunk; may sleep.
    :param stop: Asked after each chunk whether to end the walk there.
    :raises LayoutError: if memory changes all the time, or can't be read at any attempt.
    """
    failure: Exception | None = None
    # What was read while privileged is old by now where scans are repeated.
    known: MemoryMap | None = None
    for _ in range(MAX_ATTEMPTS):
        try:
            memory = known if known is not None else read_memory_map(target, layout=prepared.memory.layout)
            memmap = Memmap(target.prog, memory, live=True)
            look = make_look(memory)
            scan = Scan(memory, memmap, rules, look, pace, stop, LIVE_KINDS)
            total = sum(end - start for start, end, _ in memmap.ranges())
            found = scan.findings(progress(total) if progress is not None else None)
            after = read_memory_map(target, layout=prepared.memory.layout)
            kept = confirm(memory, memmap, rules, look, found, after)
        except (FaultError, LayoutError) as e:
            # Memory that went away while it was read, or the tables that describe it.
            failure, known = e, None
            time.sleep(RETRY_SECONDS)
            continue
        if same_map(memory, after) or scan.stopped:
            transient = len(found) - len(kept)
            if same_map(memory, prepared.memory):
                kept += check_proc(memory, prepared.files, rules)
                kept.sort(key=sort_key)
            return LiveScan(memory, scan, kept, transient)
        failure, known = None, after
    if failure is not None:
        raise LayoutError(f"the memory map could not be read in {MAX_ATTEMPTS} attempts: {failure}") from failure
    raise LayoutError(f"memory was plugged or unplugged during each of {MAX_ATTEMPTS} scans; try again later")
