# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What kernel functions would do with a page, following their C for the kernel at hand.

Each function here models one kernel function of the same name and returns an :class:`Outcome`. All are pure.
"""

from dataclasses import dataclass
from typing import List, Optional, Tuple

from mminspect.layout import bitmap
from mminspect.layout.orders import release_version
from mminspect.layout.records import INITIALIZED, MemoryMap, Section
from mminspect.rules.bitmap_bounds import page_zone
from mminspect.rules.zone_id import page_zone_address

SAFE = "safe"
REFUSES = "refuses"
READS_WRONG = "reads wrong"
WRITES_OUTSIDE = "writes outside"
FAULTS = "faults"
BUG = "BUG with CONFIG_DEBUG_VM"


@dataclass(frozen=True)
class Outcome:
    """
    What one kernel function would do.

    :ivar function: Its name.
    :ivar outcome: One of the constants above.
    :ivar why: The guard that makes it safe, or what goes wrong.
    """

    function: str
    outcome: str
    why: str


@dataclass(frozen=True)
class Entry:
    """
    One memmap entry, decoded.

    :ivar link: Its (node, zone ID) as a link.
    :ivar state: State of :mod:`mminspect.layout.records`.
    :ivar reserved: Whether it is PG_reserved.
    """

    pfn: int
    link: int
    state: int
    reserved: bool


def consequences(memory: MemoryMap, entry: Entry, first: Entry, last: Entry, section: Section) -> List[Outcome]:
    """
    Model the kernel functions that this project was started for.

    :param entry: The page.
    :param first: First page of its pageblock, clipped to the zone that spans the page.
    :param last: Last page likewise.
    :param section: The section of the page.
    """
    return [
        _page_zone(memory, entry),
        _set_pfnblock_flags_mask(memory, entry, section),
        _get_pfnblock_flags_mask(memory, entry, section),
        _pageblock_pfn_to_page(memory, entry, first, last),
        _isolate(memory, entry, first),
    ]


def _links_outside(memory: MemoryMap, entry: Entry) -> bool:
    zone = memory.zone(*memory.layout.node_zone(entry.link))
    return zone is None or not zone.spans(entry.pfn)


def _page_zone(memory: MemoryMap, entry: Entry) -> Outcome:
    node, index = memory.layout.node_zone(entry.link)
    zone = memory.zone(node, index)
    if zone is None:
        address, member = page_zone_address(memory, node, index)
        if address is None:
            return Outcome("page_zone", FAULTS, f"node {node} has no pgdat")
        return Outcome("page_zone", READS_WRONG, f"returns {address:#x}, in pglist_data.{member}, which is no zone")
    if not zone.spans(entry.pfn):
        return Outcome("page_zone", READS_WRONG, f"returns {zone}, which doesn't span the pfn")
    return Outcome("page_zone", SAFE, f"returns {zone}, which spans the pfn")


def _bitmap(memory: MemoryMap, entry: Entry, section: Section) -> Tuple[Optional[int], Optional[int], Optional[int]]:
    """Get (address of the bitmap, index, limit) as the kernel computes them."""
    layout = memory.layout
    if not layout.flatmem:
        return section.bitmap or None, bitmap.pfn_to_bitidx(layout, 0, entry.pfn), bitmap.section_usemap_size(layout)
    zone = page_zone(memory, entry.link)
    if zone is None or not zone.bitmap:
        return None, None, None
    return zone.bitmap, bitmap.pfn_to_bitidx(layout, zone.start_pfn, entry.pfn), bitmap.usemap_size(layout, zone)


def _set_pfnblock_flags_mask(memory: MemoryMap, entry: Entry, section: Section) -> Outcome:
    name = "set_pfnblock_flags_mask"
    address, index, limit = _bitmap(memory, entry, section)
    debug = "; VM_BUG_ON_PAGE(!zone_spans_pfn()) with CONFIG_DEBUG_VM" if _links_outside(memory, entry) else ""
    if address is None or index is None or limit is None:
        return Outcome(name, FAULTS, f"there is no bitmap: NULL pointer{debug}")
    word = bitmap.bitmap_word_address(memory.layout, address, index)
    if index >= limit:
        return Outcome(name, WRITES_OUTSIDE, f"index {index} of limit {limit}: changes the word at {word:#x}{debug}")
    if debug:
        return Outcome(name, BUG, f"index {index} of limit {limit} is in bounds{debug}")
    return Outcome(name, SAFE, f"index {index} of limit {limit}, the word at {word:#x}")


def _get_pfnblock_flags_mask(memory: MemoryMap, entry: Entry, section: Section) -> Outcome:
    name = "get_pfnblock_flags_mask"
    address, index, limit = _bitmap(memory, entry, section)
    # Since Linux 6.17 reading has the same VM_BUG_ON_PAGE() as writing.
    checks = release_version(memory.layout.release) >= (6, 17) and _links_outside(memory, entry)
    debug = "; VM_BUG_ON_PAGE(!zone_spans_pfn()) with CONFIG_DEBUG_VM" if checks else ""
    if address is None or index is None or limit is None:
        return Outcome(name, FAULTS, f"there is no bitmap: NULL pointer{debug}")
    if index >= limit:
        return Outcome(name, READS_WRONG, f"index {index} of limit {limit}: reads memory that is no bitmap{debug}")
    if debug:
        return Outcome(name, BUG, f"index {index} of limit {limit} is in bounds{debug}")
    return Outcome(name, SAFE, f"index {index} of limit {limit}")


def _pageblock_pfn_to_page(memory: MemoryMap, entry: Entry, first: Entry, last: Entry) -> Outcome:
    name = "__pageblock_pfn_to_page"
    zones = memory.zones_spanning(entry.pfn, entry.pfn + 1)
    if not zones:
        return Outcome(name, SAFE, "no zone spans the pfn, so no walk of a zone asks for it")
    zone = zones[0]
    link = memory.layout.link(zone.node, zone.index)
    if first.link != link:
        shortcut = ", but zone->contiguous skips the check" if zone.contiguous else ""
        outcome = READS_WRONG if zone.contiguous else REFUSES
        return Outcome(name, outcome, f"the first page of the block isn't of {zone}{shortcut}")
    if last.link != link:
        shortcut = ", but zone->contiguous skips the check" if zone.contiguous else ""
        outcome = READS_WRONG if zone.contiguous else REFUSES
        return Outcome(name, outcome, f"the last page of the block isn't of {zone}{shortcut}")
    if entry.link != link:
        return Outcome(
            name, READS_WRONG, f"first and last page of the block are of {zone}: this page is taken for one of it too"
        )
    return Outcome(name, SAFE, f"the block is of {zone}")


def _isolate(memory: MemoryMap, entry: Entry, first: Entry) -> Outcome:
    name = "isolate_migratepages_block, isolate_freepages_block"
    if not _links_outside(memory, entry) and entry.state == INITIALIZED:
        return Outcome(name, SAFE, "the page is of the zone that is walked")
    if entry.state != INITIALIZED:
        return Outcome(name, READS_WRONG, "the entry was never initialised; what it holds decides")
    if entry.reserved:
        return Outcome(name, SAFE, "PG_reserved: such a page is neither in the buddy allocator nor on an LRU list")
    return Outcome(name, READS_WRONG, "isolates the page under the lock of a zone that doesn't own it")
