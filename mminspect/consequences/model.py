# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernel functions as pure functions of a page and its pageblock.

Each function here has the name of the kernel function that it models and returns an :class:`Outcome`. The sources they
follow are those of 5.10, 6.1, 6.12 and 7.2; where these differ, :class:`mminspect.consequences.guards.Guards` decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mminspect.consequences.guards import Guards
from mminspect.memmap.chunk import DEFERRED, INITIALIZED, OFFLINE, POISONED, UNINITIALIZED_KINDS
from mminspect.memmap.page import Page
from mminspect.memorymap import bitmap, mmzone
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import Zone

SAFE = "safe"
REFUSES = "refuses"
READS_WRONG = "reads wrong"
WRITES_OUTSIDE = "writes outside"
FAULTS = "faults"
BUG = "BUG with CONFIG_DEBUG_VM"
OUTCOMES = (SAFE, REFUSES, READS_WRONG, BUG, WRITES_OUTSIDE, FAULTS)

# What makes a finding an error, whatever its rule says. BUG is added where the kernel has CONFIG_DEBUG_VM.
FATAL = (WRITES_OUTSIDE, FAULTS)

STAYS_IN_ZONE = {
    "hash": "6e2b7044c199",
    "title": "mm, compaction: make fast_isolate_freepages() stay within zone",
}


@dataclass(frozen=True)
class Outcome:
    """
    What one kernel function would do.

    :ivar function: Its name.
    :ivar outcome: One of :data:`OUTCOMES`.
    :ivar why: The guard that makes it safe, or what goes wrong.
    :ivar address: The address that it would write to, where that is outside of a bitmap.
    :ivar commit: ``hash`` and ``title`` of the commit that decides, where the kernel itself doesn't tell whether it
        has it.
    """

    function: str
    outcome: str
    why: str
    address: int | None = None
    commit: dict[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Get plain data without what isn't known."""
        result: dict[str, Any] = {"function": self.function, "outcome": self.outcome, "why": self.why}
        if self.address is not None:
            result["address"] = self.address
        if self.commit is not None:
            result["commit"] = dict(self.commit)
        return result


@dataclass(frozen=True)
class Place:
    """
    A page and what lies around it.

    :ivar zone: The zone whose walkers come to the page: the one that it links to if that spans it, else the first
        that does.
    :ivar first: First page of its pageblock, clipped to the zone; likewise ``last``.
    :ivar start: First page of its pageblock, not clipped.
    :ivar section: The section of the page, ``None`` where it isn't online.
    :ivar in_subsection: The page's bit in ``subsection_map``, ``None`` where nothing depends on it.
    """

    memory: MemoryMap
    guards: Guards
    page: Page
    zone: Zone | None
    first: Page
    last: Page
    start: Page
    section: Section | None
    in_subsection: bool | None = None

    def outside(self, page: Page) -> bool:
        """Tell whether the zone that a page links to doesn't span it."""
        zone = self.memory.zone(*self.memory.layout.node_zone(page.link))
        return zone is None or not zone.spans(page.pfn)

    @property
    def zone_link(self) -> int | None:
        """The link of the zone that is walked."""
        return None if self.zone is None else self.memory.layout.link(self.zone.node, self.zone.index)


def walked_zone(memory: MemoryMap, page: Page) -> Zone | None:
    """Get the zone whose walkers come to a page."""
    zone = memory.zone(*memory.layout.node_zone(page.link)) if page.state == INITIALIZED else None
    if zone is not None and zone.spans(page.pfn):
        return zone
    spanning = memory.zones_spanning(page.pfn, page.pfn + 1)
    return spanning[0] if spanning else None


def consequences(place: Place) -> list[Outcome]:
    """
    Model the functions that get, keep and move pages by pageblock.

    :return: Outcomes in the order in which compaction would meet the functions.
    """
    online = pfn_to_online_page(place)
    if place.page.state == DEFERRED:
        return [online]
    if place.page.state == OFFLINE:
        return [online, pageblock_pfn_to_page(place), *_walks(place)]
    return [
        online,
        page_zone(place),
        get_pfnblock_flags_mask(place, place.page),
        set_pfnblock_flags_mask(place, place.page),
        __pageblock_pfn_to_page(place),
        pageblock_pfn_to_page(place),
        *_walks(place),
        __free_one_page(place),
    ]


def _walks(place: Place) -> list[Outcome]:
    functions = (
        isolate_migratepages_block,
        isolate_freepages_block,
        fast_isolate_freepages,
        fast_isolate_around,
        set_pageblock_skip,
        reset_isolation_suitable,
        move_freepages_block,
    )
    if place.zone is None:
        why = "no zone spans the pfn, so no walk of a zone comes here"
        return [Outcome(function.__name__, SAFE, why) for function in functions]
    return [function(place) for function in functions]


def fatal(outcomes: list[Outcome], guards: Guards) -> Outcome | None:
    """
    Get the first outcome that makes a finding an error.

    The functions that take one page and its pfn count only where a walker hands them that page.
    """
    bad = (*FATAL, BUG) if guards.debug_vm else FATAL
    direct = ("page_zone", "get_pfnblock_flags_mask", "set_pfnblock_flags_mask")
    return next((item for item in outcomes if item.outcome in bad and item.function not in direct), None)


def pfn_to_online_page(place: Place) -> Outcome:
    """Model ``pfn_to_online_page()``."""
    name = "pfn_to_online_page"
    page = place.page
    if page.state == OFFLINE:
        return Outcome(name, REFUSES, "the pfn is not online: returns NULL")
    if place.in_subsection is False:
        # pfn_valid() makes an exception for early sections, pfn_section_valid() doesn't.
        return Outcome(name, REFUSES, "the pfn's bit in subsection_map is clear: returns NULL")
    if page.state == INITIALIZED:
        return Outcome(name, SAFE, "the pfn is online and its struct page initialized")
    if page.state == DEFERRED:
        return Outcome(name, READS_WRONG, "deferred initialization hasn't come this far; nobody walks the zone yet")
    looks = "the section's and subsection's flags" if place.guards.checks_subsections else "the section's flags only"
    if place.memory.layout.flatmem:
        looks = "pfn_valid() only"
    return Outcome(name, READS_WRONG, f"looks at {looks}, and returns a struct page that nobody initialized")


def page_zone(place: Place) -> Outcome:
    """Model ``page_zone()``."""
    name = "page_zone"
    memory, page = place.memory, place.page
    node, index = memory.layout.node_zone(page.link)
    zone = memory.zone(node, index)
    if zone is None:
        address, member = mmzone.page_zone_address(memory, node, index)
        if address is None:
            return Outcome(name, FAULTS, f"node {node} has no pgdat: what it returns is near NULL")
        return Outcome(name, READS_WRONG, f"returns {address:#x}, in pglist_data.{member}, which is no zone")
    if not zone.spans(page.pfn):
        return Outcome(name, READS_WRONG, f"returns {zone}, which doesn't span the pfn")
    return Outcome(name, SAFE, f"returns {zone}, which spans the pfn")


def _bitmap(place: Place, page: Page) -> tuple[int, int, int] | None:
    """Get (address of the bitmap, index, limit) as the kernel computes them, ``None`` where the bitmap is missing."""
    layout = place.memory.layout
    if not layout.flatmem:
        if place.section is None or not place.section.bitmap:
            return None
        return place.section.bitmap, bitmap.pfn_to_bitidx(layout, 0, page.pfn), bitmap.section_usemap_size(layout)
    zone = mmzone.page_zone(place.memory, page.link)
    if zone is None or not zone.bitmap:
        return None
    return zone.bitmap, bitmap.pfn_to_bitidx(layout, zone.start_pfn, page.pfn), bitmap.usemap_size(layout, zone)


def _access(place: Place, page: Page, name: str, checks: bool, writes: bool) -> Outcome:
    """Model an access to the bits of the pageblock of a page."""
    memory = place.memory
    if page.state == OFFLINE:
        return Outcome(name, FAULTS, f"pfn {page.pfn:#x} is not online: there is no struct page")
    outside = place.outside(page)
    found = _bitmap(place, page)
    if outside and checks and place.guards.debug_vm:
        return Outcome(name, BUG, "VM_BUG_ON_PAGE(!zone_spans_pfn()); this kernel has CONFIG_DEBUG_VM")
    if found is None:
        return Outcome(name, FAULTS, "there is no bitmap: NULL pointer")
    address, index, limit = found
    word = bitmap.bitmap_word_address(memory.layout, address, index)
    if index >= limit:
        does = f"changes the word at {word:#x}" if writes else f"reads the word at {word:#x}"
        return Outcome(name, WRITES_OUTSIDE if writes else READS_WRONG, f"index {index} of limit {limit}: {does}", word)
    if outside and checks and place.guards.debug_vm is None:
        return Outcome(
            name, BUG, f"VM_BUG_ON_PAGE(!zone_spans_pfn()); else index {index} of limit {limit} is in bounds"
        )
    if outside and memory.layout.flatmem and not _in_block_of_zone(place, page):
        does = "changes" if writes else "reads"
        return Outcome(name, READS_WRONG, f"index {index} of limit {limit}: {does} the bits of another pageblock")
    if outside and checks:
        base = "from the zone's first block" if memory.layout.flatmem else "from the section"
        why = f"no CONFIG_DEBUG_VM; index {index} of limit {limit} counts {base}"
        return Outcome(name, SAFE, why)
    return Outcome(name, SAFE, f"index {index} of limit {limit}, the word at {word:#x}")


def _in_block_of_zone(place: Place, page: Page) -> bool:
    """Tell whether the zone that a page links to has other pages of its pageblock."""
    zone = mmzone.page_zone(place.memory, page.link)
    start = bitmap.pageblock_start_pfn(place.memory.layout, page.pfn)
    return zone is not None and start < zone.end_pfn and zone.start_pfn < start + place.memory.layout.pageblock_nr_pages


def get_pfnblock_flags_mask(place: Place, page: Page) -> Outcome:
    """Model ``get_pfnblock_flags_mask()`` and ``get_pageblock_migratetype()`` of a page."""
    return _access(place, page, "get_pfnblock_flags_mask", place.guards.get_checks_span, False)


def set_pfnblock_flags_mask(place: Place, page: Page) -> Outcome:
    """Model ``set_pfnblock_flags_mask()`` and what calls it with a page."""
    return _access(place, page, "set_pfnblock_flags_mask", True, True)


def _refusal(place: Place) -> str | None:
    """Say why ``__pageblock_pfn_to_page()`` returns NULL, if it does."""
    zone, link = place.zone, place.zone_link
    if place.first.state == OFFLINE or place.last.state == OFFLINE:
        return "the first or last page of the block is not online"
    section = place.memory.section(place.first.pfn)
    if section is not None and section.is_absent(place.first.pfn):
        return "pfn_to_online_page() returns NULL for the block's first page: its bit in subsection_map is clear"
    if place.first.link != link:
        return f"the block's first page isn't of {zone}"
    if place.last.link != link:
        return f"the block's last page isn't of {zone}"
    return None


def __pageblock_pfn_to_page(place: Place) -> Outcome:
    """Model ``__pageblock_pfn_to_page()`` for the pageblock of the page, clipped to the zone."""
    name = "__pageblock_pfn_to_page"
    if place.zone is None:
        return Outcome(name, SAFE, "no zone spans the pfn, so no walk of a zone asks for it")
    refusal = _refusal(place)
    if refusal:
        return Outcome(name, REFUSES, refusal)
    if place.page.link != place.zone_link or place.page.state != INITIALIZED:
        why = f"first and last page of the block are of {place.zone}: this page is taken for one of it too"
        return Outcome(name, READS_WRONG, why)
    return Outcome(name, SAFE, f"the block is of {place.zone}")


def pageblock_pfn_to_page(place: Place) -> Outcome:
    """Model ``pageblock_pfn_to_page()``: zone->contiguous makes it return the block's first page unchecked."""
    name = "pageblock_pfn_to_page"
    if place.zone is None:
        return Outcome(name, SAFE, "no zone spans the pfn, so no walk of a zone asks for it")
    if not place.zone.contiguous:
        return replace(__pageblock_pfn_to_page(place), function=name)
    refusal = _refusal(place)
    if place.first.state == OFFLINE:
        return Outcome(name, FAULTS, "zone->contiguous skips the check, and there is no struct page")
    if refusal:
        return Outcome(name, READS_WRONG, f"zone->contiguous skips the check: {refusal}")
    return replace(__pageblock_pfn_to_page(place), function=name)


def _not_reached(place: Place) -> str | None:
    """Say why compaction doesn't scan the block, if it doesn't."""
    assert place.zone is not None
    refusal = None if place.zone.contiguous else _refusal(place)
    return f"pageblock_pfn_to_page() refuses the block: {refusal}" if refusal else None


def _taken(place: Place, name: str, wanted: bool, flag: str) -> Outcome:
    """Model a scan of the block that takes the page if it has a flag."""
    guard = _not_reached(place)
    return Outcome(name, SAFE, guard) if guard else _takes(place, name, wanted, flag)


def _takes(place: Place, name: str, wanted: bool, flag: str) -> Outcome:
    page = place.page
    if page.state == OFFLINE:
        return Outcome(name, FAULTS, "zone->contiguous skips the check, and there is no struct page")
    if page.state == POISONED:
        return Outcome(name, READS_WRONG, "every flag of a poisoned entry is set; PF_POISONED_CHECK() with DEBUG_VM")
    if not wanted:
        reserved = "; it is PG_reserved" if page.reserved else ""
        return Outcome(name, SAFE, f"passes over the page: it isn't {flag}{reserved}")
    if page.state != INITIALIZED:
        kind = UNINITIALIZED_KINDS[page.state]
        return Outcome(name, READS_WRONG, f"the entry was never initialized ({kind}) and looks {flag}")
    if page.link != place.zone_link:
        return Outcome(name, READS_WRONG, f"takes a page of another zone under the lock of {place.zone}")
    return Outcome(name, SAFE, f"the page is of {place.zone}")


def isolate_migratepages_block(place: Place) -> Outcome:
    """Model ``isolate_migratepages_block()``, which takes LRU pages."""
    return _taken(place, "isolate_migratepages_block", place.page.lru, "PageLRU")


def isolate_freepages_block(place: Place) -> Outcome:
    """Model ``isolate_freepages_block()``, which takes free pages."""
    return _taken(place, "isolate_freepages_block", place.page.buddy, "PageBuddy")


def fast_isolate_freepages(place: Place) -> Outcome:
    """Model ``fast_isolate_freepages()``, which takes pages off the zone's free lists."""
    name = "fast_isolate_freepages"
    if not place.guards.fast_search:
        return Outcome(name, SAFE, "not before Linux 5.1")
    if place.page.state != OFFLINE and place.page.buddy and place.page.link != place.zone_link:
        return Outcome(name, READS_WRONG, "takes the page off the free list of the zone it links to, if it is on one")
    return Outcome(name, SAFE, "takes pages off the free lists of the zone only")


def fast_isolate_around(place: Place) -> Outcome:
    """
    Model ``fast_isolate_around()``, which scans the block of a free page and may mark it skipped.

    Before 6e2b7044c199 it took the block's first page for one of the zone, and scanned blocks that
    pageblock_pfn_to_page() refuses.
    """
    name = "fast_isolate_around"
    if not place.guards.fast_search:
        return Outcome(name, SAFE, "not before Linux 5.1")
    if place.guards.around_checks_block is None:
        outcome = set_pfnblock_flags_mask(place, place.start)
        if outcome.outcome != SAFE:
            why = f"marks the block skipped through its first page, {place.start.pfn:#x}: {outcome.why}"
            why = f"without {STAYS_IN_ZONE['hash']}, {why}"
            return Outcome(name, outcome.outcome, why, outcome.address, STAYS_IN_ZONE)
    guard = _not_reached(place)
    if guard:
        outcome = _takes(place, name, place.page.buddy, "PageBuddy")
        # A page that isn't online is in no block of the zone that has a free page.
        if place.guards.around_checks_block is None and outcome.outcome == READS_WRONG:
            why = f"without {STAYS_IN_ZONE['hash']}, {outcome.why}; with it, {guard}"
            return Outcome(name, READS_WRONG, why, commit=STAYS_IN_ZONE)
        return Outcome(name, SAFE, guard)
    return replace(isolate_freepages_block(place), function=name)


def set_pageblock_skip(place: Place) -> Outcome:
    """Model ``set_pageblock_skip()``, which compaction calls with the first page of a block that it scanned."""
    name = "set_pageblock_skip"
    if place.guards.fast_search and place.guards.around_checks_block is None:
        outcome = set_pfnblock_flags_mask(place, place.start)
        if outcome.outcome != SAFE:
            why = f"as fast_isolate_around() calls it without {STAYS_IN_ZONE['hash']}: {outcome.why}"
            return Outcome(name, outcome.outcome, why, outcome.address, STAYS_IN_ZONE)
    guard = _not_reached(place)
    if guard:
        return Outcome(name, SAFE, guard)
    return replace(set_pfnblock_flags_mask(place, place.first), function=name)


def reset_isolation_suitable(place: Place) -> Outcome:
    """Model ``reset_isolation_suitable()``, which clears the skip bit through an LRU page or a free page."""
    name = "reset_isolation_suitable"
    page = place.page
    if page.state == OFFLINE:
        return Outcome(name, SAFE, "pfn_to_online_page() returns NULL")
    if not (page.lru or page.buddy or page.state == POISONED):
        return Outcome(name, SAFE, "passes over the page: it is neither PageLRU nor PageBuddy")
    return replace(set_pfnblock_flags_mask(place, page), function=name)


def move_freepages_block(place: Place) -> Outcome:
    """Model ``move_freepages_block()`` as called for a free page of the same block and zone."""
    name = "move_freepages_block"
    zone, page = place.zone, place.page
    assert zone is not None
    nr_pages = place.memory.layout.pageblock_nr_pages
    start = page.pfn & -nr_pages
    whole = zone.spans(start) if place.guards.moves_whole_blocks else True
    if not whole or not zone.spans(start + nr_pages - 1):
        return Outcome(name, REFUSES, f"the block isn't all in {zone}")
    if page.state == OFFLINE:
        return Outcome(name, READS_WRONG, "takes every pfn of the block for a page")
    if place.guards.moves_whole_blocks:
        outcome = set_pfnblock_flags_mask(place, place.start)
        if outcome.outcome != SAFE:
            why = f"sets the migratetype through the block's first page, {place.start.pfn:#x}: {outcome.why}"
            return Outcome(name, outcome.outcome, why, outcome.address)
    if page.state == POISONED or page.buddy:
        if page.link != place.zone_link:
            return Outcome(
                name, BUG, f"VM_BUG_ON_PAGE(page_zone(page) != zone); else moves the page to a list of {zone}"
            )
        return Outcome(name, SAFE, f"the page is of {zone}")
    return Outcome(name, SAFE, "passes over the page: it isn't PageBuddy")


def __free_one_page(place: Place) -> Outcome:
    """Model buddy merging: the page as the buddy of one that is freed, and as the one that is freed."""
    name = "__free_one_page"
    page = place.page
    if page.state != INITIALIZED:
        if page.buddy or page.state == POISONED:
            return Outcome(name, READS_WRONG, "page_is_buddy() compares what happens to be in the entry")
        return Outcome(name, SAFE, "page_is_buddy(): the entry isn't PageBuddy")
    if not place.outside(page):
        return Outcome(name, SAFE, "the page is of the zone that it links to")
    if page.reserved:
        return Outcome(name, SAFE, "PG_reserved: nobody frees it, and it isn't PageBuddy")
    if place.guards.debug_vm:
        return Outcome(name, BUG, "VM_BUG_ON_PAGE(bad_range()) when it is freed; this kernel has CONFIG_DEBUG_VM")
    return Outcome(name, READS_WRONG, "puts the page on a free list of the zone that it links to")
