# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pfns whose index into the pageblock bitmap is outside the bitmap, or whose bitmap is missing.

``set_pfnblock_flags_mask()`` takes the bitmap and the index from ``page_zone(page)`` on FLATMEM, and from the section
on SPARSEMEM, and checks neither.

- FLATMEM: ``index = ((pfn - round_down(zone_start_pfn, pageblock_nr_pages)) >> pageblock_order) *
  NR_PAGEBLOCK_BITS``, unsigned. A page that links to a zone below it runs past the end of the bitmap; a pfn
  below the zone wraps and lands far away. The limit is what ``setup_usemap()`` allocated.
- SPARSEMEM: the index counts from the section and always fits. What can be wrong is a section that is
  valid and has no bitmap.

A read there returns what happens to lie there as a migratetype, or faults. A write changes a word of
somebody else's memory.

``detail`` has ``linked``, the node and zone ID that the pages link to, and ``missing``, whether there is no bitmap.
Where there is one, ``bitmap`` is its address and ``limit`` its size in bits; ``index`` and ``address`` are those of
the first pfn, ``last_index`` and ``last_address`` those of the last; ``outside`` says how many bytes behind the end
the first address is (negative: before the start), ``there`` what lives at it: its ``kind`` (symbol, slab, free,
reserved, page, unmapped or unknown) and ``text``.

Always an error.

Example: Debian 5.10 on i386 with a hole of zeroed struct pages at 0xa17b: they link to zone DMA, whose bitmap has
32 bits; their index is 320.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap import bitmap
from mminspect.memorymap.layout import PAGEBLOCK_BITS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import page_zone
from mminspect.memorymap.zones import Zone
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation, counted
from mminspect.rules.commits import commit


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find the parts of runs whose index is out of bounds."""
    if not memory.layout.flatmem:
        if not chunk.section.bitmap:
            for run in chunk.runs:
                if run.judged:
                    yield Match(run.start, run.end, ("section", chunk.section.nr))
        return
    for run in chunk.runs:
        zone = page_zone(memory, run.link) if run.judged else None
        if zone is None:
            continue
        if not zone.bitmap:
            yield Match(run.start, run.end, ("missing", run.link))
            continue
        for start, end in _out_of_bounds(memory, zone, run.start, run.end):
            yield Match(start, end, ("outside", run.link))


def _out_of_bounds(memory: MemoryMap, zone: Zone, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Get the parts of ``[start, end)`` whose index isn't below the limit."""
    layout = memory.layout
    base = bitmap.pageblock_start_pfn(layout, zone.start_pfn)
    if start < base:
        # Wraps: the index is near 2**BITS_PER_LONG / pageblock_nr_pages, beyond every limit.
        yield start, min(end, base)
    limit = bitmap.usemap_size(layout, zone)
    beyond = base + limit // layout.bits_per_pageblock * layout.pageblock_nr_pages
    if end > beyond:
        yield max(start, beyond), end


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Compute the address that a write would hit."""
    kind, value = match.key
    these = counted(match.pages, "page")
    if kind == "section":
        return Violation(
            ERROR,
            f"section {value} is valid and online but has no pageblock bitmap: reading or setting the migratetype of "
            f"these {these} follows a NULL pointer",
            {"missing": True, "section": value},
        )
    zone = page_zone(memory, value)
    assert zone is not None
    if kind == "missing":
        return Violation(
            ERROR,
            f"{these} linked to {zone}, which has no pageblock bitmap: reading or setting their migratetype follows a "
            "NULL pointer",
            {"missing": True, "linked": [zone.node, zone.index]},
            of=zone,
        )
    return _describe_outside(match, memory, zone, these, identify)


def _describe_outside(match: Match, memory: MemoryMap, zone: Zone, these: str, identify: Identify) -> Violation:
    layout = memory.layout
    assert zone.bitmap is not None
    limit = bitmap.usemap_size(layout, zone)
    first = bitmap.pfn_to_bitidx(layout, zone.start_pfn, match.start)
    last = bitmap.pfn_to_bitidx(layout, zone.start_pfn, match.end - 1)
    address = bitmap.bitmap_word_address(layout, zone.bitmap, first)
    end = zone.bitmap + limit // 8
    distance = address - end if address >= end else zone.bitmap - address
    where = "behind its end" if address >= end else "before its start"
    there = identify(address)
    return Violation(
        ERROR,
        f"{these} linked to {zone}: pageblock index {first} is outside the bitmap of {limit} bits; "
        f"set_pfnblock_flags_mask() would change the word at {address:#x}, {distance} bytes {where}: "
        f"{there.get('text', 'unknown')}",
        {
            "missing": False,
            "linked": [zone.node, zone.index],
            "index": first,
            "last_index": last,
            "limit": limit,
            "bitmap": zone.bitmap,
            "address": address,
            "last_address": bitmap.bitmap_word_address(layout, zone.bitmap, last),
            "outside": distance if address >= end else -distance,
            "there": there,
        },
        of=zone,
    )


RULE = Rule(
    summary="pfns whose pageblock bitmap index is outside the bitmap",
    functions=(
        "pfn_to_bitidx",
        "set_pfnblock_flags_mask",
        "__get_pfnblock_flags_mask",
        "get_pfnblock_flags_mask",
        "set_pageblock_skip",
        "set_pageblock_migratetype",
    ),
    commits=(
        commit("0740a50b9baa", "holes no longer link to a zone far below them"),
        commit("b943f045a9af", "a section without usage after hot removal"),
        commit("5ec8e8ea8b77", "usage freed while it was read"),
    ),
    needs=(PAGEBLOCK_BITS,),
    checks=(PageCheck(check, describe),),
    explains=2,
)
