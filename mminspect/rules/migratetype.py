# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pageblocks whose bitmap holds a migratetype that the kernel doesn't have.

The allocator uses the stored number as an index: ``zone->free_area[order].free_list[migratetype]``. From MIGRATE_TYPES
on, that is ``nr_free``, or a list of the next order: putting a page there destroys both. MIGRATE_TYPES is that of the
kernel at hand, since CMA and ISOLATE depend on its configuration.

Since Linux 6.17, isolation can have a bit of its own: three bits of migratetype, skip, isolate,
and three that nobody sets. MIGRATE_ISOLATE is a return value only and never stored.

Pageblocks that no zone spans are not judged, nor are those without online memory.

- error: a migratetype that isn't one, or a stored MIGRATE_ISOLATE where isolation is a bit.
- warning: only bits that have no meaning are set; nothing reads them, but something wrote there.

``detail`` has ``value`` (the bits as stored, migratetype lowest), ``migratetype`` and ``migrate_types``, the limit.

Example: a dump of amd64 6.12 in which a word of a section's bitmap was overwritten with ones: its 16 pageblocks have
migratetype 7, and MIGRATE_TYPES is 6.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mminspect.findings import ERROR, WARNING
from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import PAGEBLOCK_BITS, Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import MIGRATETYPE_MASK
from mminspect.memorymap.ranges import Range
from mminspect.memorymap.sections import Section
from mminspect.rules.base import MapCheck, Rule, Violation, counted
from mminspect.rules.commits import commit

# Migratetype, skip and, where there is room for it, isolate.
KNOWN_BITS = {4: 0xF, 8: 0x1F}
SECTIONS_AT_ONCE = 4096


def check(memory: MemoryMap) -> Iterator[Violation]:
    """Look at every bitmap."""
    layout = memory.layout
    if layout.flatmem:
        online = [r for section in memory.sections for r in section.ranges]
        for zone in memory.populated_zones:
            if zone.pageblock_flags:
                base = bitmap.pageblock_start_pfn(layout, zone.start_pfn)
                yield from _judge(memory, zone.pageblock_flags, base, [(zone.start_pfn, zone.end_pfn)], online)
        return
    spans = [(zone.start_pfn, zone.end_pfn) for zone in memory.populated_zones]
    for section in _suspects(memory):
        yield from _judge(memory, section.pageblock_flags, _section_start(memory, section), spans, section.ranges)


def _suspects(memory: MemoryMap) -> Iterator[Section]:
    """Find the sections with bad bits in their bitmap. A machine may have half a million."""
    layout = memory.layout
    width = layout.bits_per_pageblock
    # No pageblock's bits cross a byte, so that a byte is bad or not wherever it is.
    values = np.arange(256, dtype=np.uint8)
    bad = np.zeros(256, np.bool_)
    for shift in range(0, 8, width):
        bad |= _is_bad(layout, bitmap.fields(layout, (values >> np.uint8(shift)) & np.uint8((1 << width) - 1)))
    for first in range(0, len(memory.sections), SECTIONS_AT_ONCE):
        sections = memory.sections[first : first + SECTIONS_AT_ONCE]
        where = np.flatnonzero(bad[np.frombuffer(b"".join(s.pageblock_flags for s in sections), np.uint8)])
        if len(where):
            ends = np.cumsum([len(section.pageblock_flags) for section in sections])
            for index in np.unique(np.searchsorted(ends, where, "right")).tolist():
                yield sections[index]


def _is_bad(layout: Layout, bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Tell which pageblocks' bits can't be."""
    types = bits & MIGRATETYPE_MASK
    bad: npt.NDArray[np.bool_] = types >= len(layout.migratetypes)
    if layout.isolate_bit and "ISOLATE" in layout.migratetypes:
        bad |= types == layout.migratetypes.index("ISOLATE")
    bad |= (bits & ~np.uint8(KNOWN_BITS[layout.bits_per_pageblock]) & 0xFF) != 0
    return bad


def _section_start(memory: MemoryMap, section: Section) -> int:
    assert memory.layout.pfn_section_shift is not None
    return section.nr << memory.layout.pfn_section_shift


def _judge(
    memory: MemoryMap, data: bytes, base: int, spans: list[Range], online: list[Range] | tuple[Range, ...]
) -> Iterator[Violation]:
    """Find the bad pageblocks of one bitmap, whose first is at ``base``."""
    layout = memory.layout
    bits = bitmap.all_pageblock_bits(layout, data)
    where = np.flatnonzero(_is_bad(layout, bits))
    if not len(where):
        return
    nr_pages = layout.pageblock_nr_pages
    runs: list[tuple[int, int, int]] = []
    for index in where.tolist():
        start = base + index * nr_pages
        if not (_touches(start, start + nr_pages, spans) and _touches(start, start + nr_pages, online)):
            continue
        value = int(bits[index])
        if runs and runs[-1][1] == start and runs[-1][2] == value:
            runs[-1] = (runs[-1][0], start + nr_pages, value)
        else:
            runs.append((start, start + nr_pages, value))
    for start, end, value in runs:
        yield _violation(layout, start, end, value)


def _touches(start: int, end: int, ranges: list[Range] | tuple[Range, ...]) -> bool:
    return any(low < end and start < high for low, high in ranges)


def _violation(layout: Layout, start: int, end: int, value: int) -> Violation:
    kinds = len(layout.migratetypes)
    number = value & MIGRATETYPE_MASK
    blocks = (end - start) >> layout.pageblock_order
    these = counted(blocks, "pageblock")
    severity = ERROR
    if number >= kinds:
        what = (
            f"{these} with migratetype {number}, but MIGRATE_TYPES is {kinds}: free_list[{number}] is behind the "
            "array, and a page freed there overwrites what follows"
        )
    elif layout.isolate_bit and layout.migratetypes[number] == "ISOLATE":
        what = f"{these} with a stored MIGRATE_ISOLATE, which this kernel keeps in a bit of its own"
    else:
        severity = WARNING
        what = f"{these} with pageblock bits {value:#x}: bits are set that no kernel known here gives a meaning"
    detail = {"value": value, "migratetype": number, "migrate_types": kinds}
    return Violation(severity, what, detail, pages=(start, end))


RULE = Rule(
    summary="pageblocks with a migratetype that the kernel doesn't have",
    functions=(
        "get_pfnblock_flags_mask",
        "get_pfnblock_migratetype",
        "__free_one_page",
        "move_freepages_block",
        "__rmqueue_smallest",
    ),
    commits=(commit("0740a50b9baa", "wrong zone links no longer let one zone write into another's bitmap"),),
    needs=(PAGEBLOCK_BITS,),
    checks=(MapCheck(check),),
)
