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

Kernel facts: section 4.3 (pageblock bitmap); bug 1 wrote into a foreign bitmap.

Example: a dump of amd64 6.12 in which a word of a section's bitmap was overwritten with ones: its 16 pageblocks have
migratetype 7, and MIGRATE_TYPES is 6.
"""

from typing import Iterator, List, Tuple

import numpy as np

from mminspect.findings import ERROR, WARNING, Finding
from mminspect.layout import bitmap
from mminspect.layout.records import MemoryMap, Section, Zone
from mminspect.layout.sections import Range
from mminspect.rules import Commit, Rule, counted, never_described, no_matches

MIGRATETYPE_MASK = 7
# Migratetype, skip and, where there is room for it, isolate.
KNOWN_BITS = {4: 0xF, 8: 0x1F}


def check_map(memory: MemoryMap) -> Iterator[Finding]:
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
    for section in memory.sections:
        if section.pageblock_flags:
            yield from _judge(memory, section.pageblock_flags, _section_start(memory, section), spans, section.ranges)


def _section_start(memory: MemoryMap, section: Section) -> int:
    assert memory.layout.pfn_section_shift is not None
    return section.nr << memory.layout.pfn_section_shift


def _judge(
    memory: MemoryMap, data: bytes, base: int, spans: List[Range], online: "List[Range] | Tuple[Range, ...]"
) -> Iterator[Finding]:
    """Find the bad pageblocks of one bitmap, whose first is at ``base``."""
    layout = memory.layout
    bits = bitmap.all_pageblock_bits(layout, data)
    kinds = len(layout.migratetypes)
    types = bits & MIGRATETYPE_MASK
    bad = types >= kinds
    if layout.isolate_bit and "ISOLATE" in layout.migratetypes:
        bad |= types == layout.migratetypes.index("ISOLATE")
    bad |= (bits & ~np.uint8(KNOWN_BITS[layout.bits_per_pageblock]) & 0xFF) != 0
    where = np.flatnonzero(bad)
    if not len(where):
        return
    nr_pages = layout.pageblock_nr_pages
    runs: List[Tuple[int, int, int]] = []
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
        yield _finding(memory, start, end, value)


def _touches(start: int, end: int, ranges: "List[Range] | Tuple[Range, ...]") -> bool:
    return any(low < end and start < high for low, high in ranges)


def _finding(memory: MemoryMap, start: int, end: int, value: int) -> Finding:
    layout = memory.layout
    kinds = len(layout.migratetypes)
    number = value & MIGRATETYPE_MASK
    zones: List[Zone] = memory.zones_spanning(start, end)
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
        what = (
            f"{these} with pageblock bits {value:#x}: bits without a meaning are set, something wrote into the bitmap"
        )
    return Finding(
        RULE.id,
        severity,
        start,
        end,
        zones[0].node if zones else None,
        zones[0].name if zones else None,
        what,
        {"value": value, "migratetype": number, "migrate_types": kinds},
    )


RULE = Rule(
    "migratetype",
    "pageblocks with a migratetype that the kernel doesn't have",
    (
        "get_pfnblock_flags_mask",
        "get_pfnblock_migratetype",
        "__free_one_page",
        "move_freepages_block",
        "__rmqueue_smallest",
    ),
    (
        Commit(
            "0740a50b9baa",
            "mm/page_alloc.c: refactor initialization of struct page for holes in memory layout",
            "wrong zone links no longer let one zone write into another's bitmap (v5.12)",
        ),
    ),
    no_matches,
    never_described,
    check_map=check_map,
    documentation=__doc__,
)
