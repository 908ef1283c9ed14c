# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Add consequences to findings.

Each finding is judged by one page: the first that is wrong in it. Its pageblock's first and last entry are read again.
"""

from collections import Counter
from dataclasses import replace
from typing import Dict, Iterable, Iterator, List, Optional

import numpy as np
from drgn import FaultError

from mminspect.consequences.kernel import Kernel, read_kernel
from mminspect.consequences.model import Outcome, Page, Place, consequences, fatal, walked_zone
from mminspect.findings import ERROR, WARNING, Finding
from mminspect.layout.records import OFFLINE, UNREADABLE_REASONS, MemoryMap
from mminspect.memmap import Memmap
from mminspect.rules import WhatIs
from mminspect.target import Target

# Findings of one rule that get consequences. The rest of a report with more of them looks the same.
MAX_PER_RULE = 1000

# Rules whose findings are about no page.
PAGELESS = ("proc-disagrees", "unreadable")


class Judge:
    """
    Says what the kernel would do with a page.

    :param memory: The kernel's memory map.
    :param memmap: Reads its struct pages.
    :param look: Says what lives at an address.
    """

    def __init__(self, target: Target, memory: MemoryMap, memmap: Memmap, look: WhatIs) -> None:
        self.kernel: Kernel = read_kernel(target)
        self._memory = memory
        self._memmap = memmap
        self._look = look

    def page(self, pfn: int) -> Optional[Page]:
        """Decode the entry of a pfn. ``None`` if the target doesn't hold it."""
        section = self._memory.section(pfn)
        if section is None:
            return Page(pfn, 0, OFFLINE)
        chunk = self._memmap.chunk(pfn, pfn + 1, section)
        state = int(chunk.state[0])
        if state in UNREADABLE_REASONS:
            return None
        layout, kernel = self._memory.layout, self.kernel
        flags = int(chunk.flags[0])
        entry = self._memmap.entry(pfn, section)
        order = "<" if layout.byteorder == "little" else ">"
        mapcount = int(np.frombuffer(entry, f"{order}i4", 1, layout.mapcount_offset)[0])
        return Page(
            pfn,
            int(chunk.link[0]),
            state,
            reserved=bool(flags >> layout.pg_reserved & 1),
            lru=kernel.pg_lru is not None and bool(flags >> kernel.pg_lru & 1),
            buddy=mapcount == kernel.buddy_mapcount,
        )

    def place(self, pfn: int) -> Optional[Place]:
        """Find out what lies around a page. ``None`` if the target doesn't hold it."""
        page = self.page(pfn)
        if page is None:
            return None
        zone = walked_zone(self._memory, page)
        nr_pages = self._memory.layout.pageblock_nr_pages
        start, last = pfn & -nr_pages, (pfn & -nr_pages) + nr_pages - 1
        first = start
        if zone is not None:
            first, last = max(first, zone.start_pfn), min(last, zone.end_pfn - 1)
        around = [entry for entry in map(self.page, (first, last, start)) if entry is not None]
        if len(around) < 3:
            return None
        return Place(self._memory, self.kernel, page, zone, around[0], around[1], around[2], self._memory.section(pfn))

    def outcomes(self, pfn: int) -> List[Outcome]:
        """Model the kernel's functions for a page. Empty if the target doesn't hold it."""
        try:
            place = self.place(pfn)
        except FaultError:
            return []
        if place is None:
            return []
        return [self._with_object(item) for item in consequences(place)]

    def _with_object(self, item: Outcome) -> Outcome:
        if item.address is None:
            return item
        there = self._look(item.address).get("text", "unknown memory")
        return replace(item, why=f"{item.why}, {there}")

    def wrong_page(self, finding: Finding) -> int:
        """Choose the page by which a finding is judged."""
        if "blocks" in finding.detail:
            return int(finding.detail["blocks"][0][0])
        layout, memory = self._memory.layout, self._memory
        for start, end, node, index in finding.detail.get("runs", ()):
            zone = memory.zone(node, index)
            if zone is None or zone.start_pfn >= zone.end_pfn or not zone.spans(start):
                return int(start)
            if zone.end_pfn < end:
                return int(zone.end_pfn)
        pfn = finding.start_pfn
        while memory.section(pfn) is None and pfn < min(finding.end_pfn, finding.start_pfn + layout.pageblock_nr_pages):
            pfn += 1
        return pfn


def attach(findings: Iterable[Finding], judge: Judge) -> Iterator[Finding]:
    """
    Add ``detail.consequences`` to findings, and make errors of warnings that the kernel would not survive.

    :return: Iterator of the findings, in the same order.
    """
    done: Counter[str] = Counter()
    known: Dict[int, List[Outcome]] = {}
    for finding in findings:
        if finding.rule in PAGELESS or done[finding.rule] >= MAX_PER_RULE:
            yield finding
            continue
        done[finding.rule] += 1
        pfn = judge.wrong_page(finding)
        if pfn not in known:
            known[pfn] = judge.outcomes(pfn)
        yield _with_consequences(finding, known[pfn], judge.kernel)


def _with_consequences(finding: Finding, outcomes: List[Outcome], kernel: Kernel) -> Finding:
    detail = {**finding.detail, "consequences": [item.as_dict() for item in outcomes]}
    deadly = fatal(outcomes, kernel)
    # A note is legal; what is wrong with its page besides has a finding of its own.
    if deadly is None or finding.severity != WARNING:
        return replace(finding, detail=detail)
    message = f"{finding.message}; but {deadly.function}() {deadly.outcome}: {deadly.why}"
    detail["severity_by_rule"] = finding.severity
    return replace(finding, severity=ERROR, message=message, detail=detail)
