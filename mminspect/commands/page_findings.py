# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a scan finds in a few pages."""

from __future__ import annotations

import contextlib
from typing import Callable

from mminspect.consequences.attach import Outcomes, attach
from mminspect.findings import Finding, sort_key
from mminspect.kernel.kernel import Kernel
from mminspect.rules.base import KeyCheck, MapCheck, PageCheck, TallyCheck
from mminspect.rules.registry import select_rules
from mminspect.walk.engine import Scan, check_map
from mminspect.walk.limits import Progress
from mminspect.walk.scan import helpful_jobs

# Chunks on either side that are looked at to find out how far a finding reaches.
MAX_CHUNKS_AROUND = 64


def find(
    kernel: Kernel, outcomes: Outcomes, start: int, end: int, progress: Callable[[int], Progress] | None = None
) -> list[Finding]:
    """
    Find what a scan finds in the pages ``[start, end)``.

    In the running kernel, nothing is found that takes a whole walk.

    :param progress: As in :func:`mminspect.walk.scan.scan`.
    """
    found = _find_around(kernel, start, end)
    if kernel.is_live:
        found += check_map(kernel.memory, select_rules())
    else:
        total = sum(high - low for low, high, _ in kernel.memmap.ranges())
        jobs = helpful_jobs(kernel.target, total)
        advance = progress(total) if progress is not None else None
        kinds = (MapCheck, KeyCheck, TallyCheck)
        scan = Scan(kernel.memory_with_lists, kernel.memmap, select_rules(), kernel.identify, kinds=kinds)
        with contextlib.closing(scan.walk(advance, jobs)) as walk:
            found += walk
    found = [finding for finding in found if any(finding.covers(pfn) for pfn in range(start, end))]
    return sorted(attach(sorted(found, key=sort_key), outcomes), key=sort_key)


def find_in_devices(kernel: Kernel, outcomes: Outcomes, start: int, end: int) -> list[Finding]:
    """Find what a scan finds in pages ``[start, end)`` of devices; nothing in the running kernel."""
    if kernel.is_live:
        return []
    rules = [rule for rule in select_rules() if rule.device]
    scan = Scan(kernel.memory_for(device=True), kernel.memmap, rules, kernel.identify, kinds=(TallyCheck,))
    found = [finding for finding in scan.findings_in([]) if any(map(finding.covers, range(start, end)))]
    return sorted(attach(found, outcomes), key=sort_key)


def _find_around(kernel: Kernel, start: int, end: int) -> list[Finding]:
    """
    Check the pages of the chunks that the pages are in, as a scan cuts them.

    More chunks are looked at as long as a finding of the pages reaches their edge.
    """
    parts = list(kernel.memmap.ranges())
    near = [index for index, (low, high, _) in enumerate(parts) if low < end and start < high]
    first, last = near[0], near[-1]
    for _ in range(MAX_CHUNKS_AROUND):
        scan = Scan(kernel.memory, kernel.memmap, select_rules(), kernel.identify, kinds=(PageCheck,))
        found = scan.findings_in(kernel.memmap.chunk(*part) for part in parts[first : last + 1])
        found = [finding for finding in found if finding.start_pfn < end and start < finding.end_pfn]
        before = first > 0 and any(f.start_pfn == parts[first][0] == parts[first - 1][1] for f in found)
        after = last + 1 < len(parts) and any(f.end_pfn == parts[last][1] == parts[last + 1][0] for f in found)
        if not before and not after:
            break
        first, last = first - before, last + after
    return found
