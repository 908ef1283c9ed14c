# SPDX-License-Identifier: LGPL-2.1-or-later
"""Half-open ranges of pfns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def merge(ranges: Iterable[Range]) -> list[Range]:
    """Join overlapping and adjacent half-open ranges; the result ascends."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def subtract(ranges: Sequence[Range], holes: Sequence[Range]) -> list[Range]:
    """Remove ranges from ranges; both ascend."""
    result = []
    for start, end in ranges:
        for hole_start, hole_end in holes:
            if hole_end <= start or end <= hole_start:
                continue
            if start < hole_start:
                result.append((start, hole_start))
            start = max(start, hole_end)
            if start >= end:
                break
        if start < end:
            result.append((start, end))
    return result
