# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings of lists and counts that a pageblock explains from which one zone takes another's pages."""

from __future__ import annotations

from typing import Any, NamedTuple

from mminspect.findings import Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.registry import all_rules


class _Block(NamedTuple):
    rule: str
    start: int
    end: int
    zones: frozenset[tuple[int | None, int]]


class Causes:
    """Pageblocks from which a zone can take another's pages."""

    def __init__(self, memory: MemoryMap) -> None:
        self._nr_pages = memory.layout.pageblock_nr_pages
        self._zone_ids = {zone.name: zone.index for zone in memory.zones}
        self._left_behind = {rule.id: rule.left_behind for rule in all_rules().values() if rule.left_behind is not None}
        self._by_zone: dict[tuple[int | None, int], _Block] = {}
        self._by_start: dict[int, _Block] = {}

    def add(self, finding: Finding) -> None:
        """Take note of a pageblock."""
        zones = frozenset((run[2], run[3]) for run in finding.detail["runs"])
        block = _Block(finding.rule, finding.start_pfn, finding.end_pfn, zones)
        self._by_start[block.start] = block
        for zone in zones:
            self._by_zone.setdefault(zone, block)

    def wants(self, finding: Finding) -> bool:
        """Tell whether a finding may have such a cause; then it waits until all pageblocks are known."""
        return finding.rule in self._left_behind

    def explain(self, finding: Finding) -> Finding:
        """Name the pageblock in a finding that one explains."""
        block = self._cause(finding)
        if block is None:
            return finding
        cause: dict[str, Any] = {"rule": block.rule, "start_pfn": block.start, "end_pfn": block.end}
        where = f"pageblock {block.start:#x}-{block.end:#x}, from which one zone takes another's pages ({block.rule})"
        message = f"{finding.message}; likely cause: {where}"
        return finding.changed(message=message, detail={**finding.detail, "cause": cause})

    def _cause(self, finding: Finding) -> _Block | None:
        if not self._by_start:
            return None
        for pfn in finding.detail.get("pfns", ()):
            block = self._by_start.get(pfn & -self._nr_pages)
            if block is not None:
                return block
        if finding.zone is None or finding.detail.get("problem") not in self._left_behind[finding.rule]:
            return None
        return self._by_zone.get((finding.node, self._zone_ids[finding.zone]))
