# SPDX-License-Identifier: LGPL-2.1-or-later
"""The migratetypes of all pageblocks, as runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import MIGRATETYPE_MASK, PB_MIGRATE_ISOLATE

SECTIONS_AT_ONCE = 4096


class BlockRuns(NamedTuple):
    """
    Adjacent pageblocks of one migratetype, ascending.

    :ivar start: First pfn of each run.
    :ivar end: Pfn behind the last.
    :ivar kind: The migratetype.
    """

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]


def _migratetypes(layout: Layout, data: bytes) -> npt.NDArray[np.uint8]:
    """Get the migratetype of every pageblock in a bitmap, as ``get_pfnblock_migratetype()`` does."""
    bits = bitmap.all_pageblock_bits(layout, data)
    kinds: npt.NDArray[np.uint8] = bits & np.uint8(MIGRATETYPE_MASK)
    if layout.isolate_bit and "ISOLATE" in layout.migratetypes:
        kinds[bits & PB_MIGRATE_ISOLATE != 0] = layout.migratetypes.index("ISOLATE")
    return kinds


def migratetype_runs(memory: MemoryMap) -> BlockRuns:
    """Get the migratetypes of all pageblocks that have a bitmap."""
    layout = memory.layout
    starts: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    kinds: list[npt.NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
    if layout.flatmem:
        for zone in sorted(memory.populated_zones, key=lambda zone: zone.start_pfn):
            if not zone.pageblock_flags:
                continue
            found = _migratetypes(layout, zone.pageblock_flags)
            first = bitmap.pageblock_start_pfn(layout, zone.start_pfn)
            found = found[: -(-(zone.end_pfn - first) // layout.pageblock_nr_pages)]
            starts.append(first + np.arange(len(found), dtype=np.int64) * layout.pageblock_nr_pages)
            kinds.append(found)
    else:
        shift = layout.pfn_section_shift
        assert shift is not None
        each = 1 << (shift - layout.pageblock_order)
        for at in range(0, len(memory.sections), SECTIONS_AT_ONCE):
            sections = [s for s in memory.sections[at : at + SECTIONS_AT_ONCE] if s.pageblock_flags]
            if not sections:
                continue
            rows = _migratetypes(layout, b"".join(s.pageblock_flags for s in sections)).reshape(len(sections), -1)
            base = np.array([s.nr for s in sections], np.int64) << shift
            within = np.arange(each, dtype=np.int64) * layout.pageblock_nr_pages
            starts.append((base[:, np.newaxis] + within).ravel())
            kinds.append(np.ascontiguousarray(rows[:, :each]).ravel())
    start, kind = np.concatenate(starts), np.concatenate(kinds)
    end = start + layout.pageblock_nr_pages
    # Two zones of FLATMEM can meet in a pageblock; each has its own bitmap.
    end[:-1] = np.minimum(end[:-1], start[1:])
    new = np.ones(len(start), np.bool_)
    new[1:] = (kind[1:] != kind[:-1]) | (start[1:] != end[:-1])
    begins = np.flatnonzero(new)
    if not len(begins):
        return BlockRuns(start, end, kind)
    return BlockRuns(start[begins], end[np.append(begins[1:], len(start)) - 1], kind[begins])
