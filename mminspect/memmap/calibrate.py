# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is the layout right: pages must decode to the zones that they are in."""

from __future__ import annotations

from mminspect.errors import LayoutError
from mminspect.memmap.chunk import (
    EXCLUDED,
    INITIALIZED,
)
from mminspect.memmap.reader import CHUNK_PAGES, Memmap
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.structpages import stretches

# The pages of a zone that are tried before its layout is called wrong.
CALIBRATION_PAGES = 4096


def calibrate(memmap: Memmap, memory: MemoryMap) -> None:
    """
    Check that pages decode to the zones that they are in.

    A zone's span may have holes and other zones' pages in it, so one page is enough; but a layout that
    is wrong finds none.

    :raises LayoutError: if a zone has pages but none of those tried links to it.
    """
    readable = 0
    for zone in memory.populated_zones:
        if not zone.present:
            continue
        found, tried = _calibrate_zone(
            memmap, memory, zone.start_pfn, zone.end_pfn, memory.layout.link(zone.node, zone.index)
        )
        readable += tried
        if tried and not found:
            flags = memory.layout.flags
            raise LayoutError(
                f"no page of {zone} decodes to it (node at bit {flags.node.shift}, {flags.node.width} bits; "
                f"zone at bit {flags.zone.shift}, {flags.zone.width} bits): the type information isn't of this kernel, "
                "or mminspect doesn't know its page->flags"
            )
    if not readable:
        raise LayoutError("not one struct page of a zone can be read; the dump doesn't hold the memmap")


def _calibrate_zone(memmap: Memmap, memory: MemoryMap, start: int, end: int, link: int) -> tuple[bool, int]:
    """Look for one page with a link; return whether there is one, and how many pages were read."""
    tried = 0
    spans = [
        (max(start, low), min(end, high), section)
        for section in stretches(memory)
        for low, high in section.ranges
        if low < end and start < high
    ]
    # Both ends first, then the rest: holes are rarely everywhere.
    for low, high, section in spans[:1] + spans[-1:] + spans:
        for first in (low, max(low, high - CALIBRATION_PAGES)):
            chunk = memmap.chunk(first, min(high, first + CALIBRATION_PAGES), section)
            good = chunk.state < EXCLUDED
            tried += int(good.sum())
            if bool(((chunk.link == link) & (chunk.state == INITIALIZED)).any()):
                return True, tried
    # What is left is the middle of the zone.
    for low, high, section in spans:
        for first in range(low, high, CHUNK_PAGES):
            chunk = memmap.chunk(first, min(high, first + CHUNK_PAGES), section)
            tried += int((chunk.state < EXCLUDED).sum())
            if bool(((chunk.link == link) & (chunk.state == INITIALIZED)).any()):
                return True, tried
    return False, tried
