# SPDX-License-Identifier: LGPL-2.1-or-later
"""What pages in HTML need of a command: cells of the right size, the worst findings, the command itself."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from mminspect.commands import map as maps
from mminspect.findings import SEVERITIES, Report
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range
from mminspect.render.html import MAX_CELLS
from mminspect.render.report import in_order, some

# What a command line can have in a page.
MAX_COMMAND = 2000


def cell_order(memory: MemoryMap, span: Range | None) -> int:
    """Get the order of the smallest cells that a page has room for."""
    low, high = span or (0, 1 << 64)
    pages = sum(max(0, min(end, high) - max(start, low)) for start, end in memory.online_ranges())
    return min(max(0, (pages // MAX_CELLS).bit_length()), memory.layout.pageblock_order)


def worst_findings(report: Report) -> Sequence[dict[str, Any]]:
    """Get the findings that a page lists, with all their details."""
    return [finding.as_dict() for finding in in_order(some(report.findings, report.summary["by_severity"], SEVERITIES))]


def drawable(picture: Any, report: Report) -> dict[str, Any]:
    """Make a map of what was seen in a walk, with what a report says of the rest."""
    return {**maps.make_map(picture, report), "target": report.target, "summary": report.summary}


def command_line() -> str:
    """Get the command that runs, as a shell takes it."""
    return shlex.join(["mminspect", *sys.argv[1:]])[:MAX_COMMAND]
