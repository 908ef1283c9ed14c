# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernel functions as pure functions of a page and its pageblock.

Each function here has the name of the kernel function that it models and returns an :class:`Outcome`. The sources they
follow are those of 5.10, 6.1, 6.12 and 7.2; where these differ, :class:`mminspect.consequences.guards.Guards` decides.
"""

from __future__ import annotations

from mminspect.consequences.place import (
    BUG,
    FAULTS,
    NO_CHECK,
    READS_WRONG,
    REFUSES,
    RUN_TIME,
    SAFE,
    STAYS_IN_ZONE,
    VM_BUG_ON,
    WRITES_OUTSIDE,
    Outcome,
    Place,
)
from mminspect.memmap.chunk import DEFERRED, INITIALIZED, OFFLINE, POISONED, UNINITIALIZED_KINDS
from mminspect.memmap.page import Page
from mminspect.memorymap import bitmap, mmzone


def consequences(place: Place, *others: Place) -> list[Outcome]:
    """
    Model the functions that get, keep and move pages by pageblock.

    :param place: The page as the first of its zones meets it.
    :param others: The same page as the other zones that span it meet it.
    :return: Outcomes in the order in which compaction would meet the functions.
    """
    places = (place, *others)
    online = pfn_to_online_page(place)
    if place.page.state == DEFERRED:
        return [online]
    blocks = [outcome for found in places for outcome in _named(found, [pageblock_pfn_to_page(found)], bool(others))]
    walks = [outcome for found in places for outcome in _named(found, _walks(found), bool(others))]
    if place.page.state == OFFLINE:
        return [online, *blocks, *walks]
    return [
        online,
        page_zone(place),
        get_pfnblock_flags_mask(place, place.page),
        set_pfnblock_flags_mask(place, place.page),
        *(outcome for found in places for outcome in _named(found, [__pageblock_pfn_to_page(found)], bool(others))),
        *blocks,
        *walks,
        __free_one_page(place),
    ]


def _named(place: Place, outcomes: list[Outcome], several: bool) -> list[Outcome]:
    """Say whose walk it is, where there are several."""
    return [item._replace(zone=str(place.zone)) for item in outcomes] if several else outcomes


def _walks(place: Place) -> list[Outcome]:
    functions = [
        isolate_migratepages_block,
        isolate_freepages_block,
        fast_isolate_freepages,
        fast_isolate_around,
        set_pageblock_skip,
        reset_isolation_suitable,
        move_freepages_block,
    ]
    if place.zone is None:
        why = "no zone spans the pfn, so no walk of a zone comes here"
        return [Outcome(function.__name__, SAFE, why) for function in functions]
    if place.is_foreign:
        functions += [prep_move_freepages_block] if place.guards.moves_whole_blocks else []
        functions += [set_migratetype_isolate]
    return [function(place) for function in functions]


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
        return Outcome(name, READS_WRONG, "deferred initialization hasn't come this far")
    looks = "the section's and subsection's flags" if place.guards.checks_subsections else "the section's flags only"
    if place.memory.layout.flatmem:
        looks = "pfn_valid() only"
    return Outcome(name, READS_WRONG, f"looks at {looks}, and returns a struct page that is not initialized")


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
        return Outcome(name, REFUSES, refusal, guard=RUN_TIME if place.is_foreign else None)
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
        return __pageblock_pfn_to_page(place)._replace(function=name)
    refusal = _refusal(place)
    if place.first.state == OFFLINE:
        return Outcome(name, FAULTS, "zone->contiguous skips the check, and there is no struct page")
    if refusal:
        return Outcome(name, READS_WRONG, f"zone->contiguous skips the check: {refusal}")
    return __pageblock_pfn_to_page(place)._replace(function=name)


def _not_reached(place: Place) -> str | None:
    """Say why compaction doesn't scan the block, if it doesn't."""
    assert place.zone is not None
    refusal = None if place.zone.contiguous else _refusal(place)
    return f"pageblock_pfn_to_page() refuses the block: {refusal}" if refusal else None


def _refused(place: Place, name: str, guard: str) -> Outcome:
    """Make the outcome of a scan that pageblock_pfn_to_page() keeps off the block."""
    return Outcome(name, SAFE, guard, guard=RUN_TIME if place.is_foreign else None)


def _without_page(place: Place, name: str) -> Outcome:
    """Make the outcome of a scan that comes to a pfn that isn't online."""
    assert place.zone is not None
    why = "zone->contiguous skips the check" if place.zone.contiguous else "first and last page of the block are online"
    return Outcome(name, FAULTS, f"{why}, and there is no struct page")


def _takes(place: Place, name: str, wanted: bool, flag: str) -> Outcome:
    """Model a scan of the block that takes the page if it has a flag."""
    page = place.page
    if page.state == OFFLINE:
        return _without_page(place, name)
    if page.state == POISONED and flag != "PageBuddy":
        return Outcome(name, READS_WRONG, "every flag of a poisoned entry is set; PF_POISONED_CHECK() with DEBUG_VM")
    # PageBuddy() is a value of _mapcount and no flag; all ones aren't it.
    if not wanted:
        reserved = "; it is PG_reserved" if page.reserved else ""
        return Outcome(name, SAFE, f"passes over the page: it isn't {flag}{reserved}")
    if page.state != INITIALIZED:
        kind = UNINITIALIZED_KINDS[page.state]
        return Outcome(name, READS_WRONG, f"the entry is not initialized ({kind}) and looks {flag}")
    if page.link != place.zone_link:
        why = f"takes a page of another zone under the lock of {place.zone}"
        return Outcome(name, READS_WRONG, why, guard=NO_CHECK)
    return Outcome(name, SAFE, f"the page is of {place.zone}")


def isolate_migratepages_block(place: Place) -> Outcome:
    """Model ``isolate_migratepages_block()``, which takes LRU pages."""
    name = "isolate_migratepages_block"
    guard = _not_reached(place)
    if guard:
        return _refused(place, name, guard)
    outcome = _takes(place, name, place.page.lru, "PageLRU")
    if outcome.guard != NO_CHECK or place.outside(place.page):
        return outcome
    # The lock is that of the page's lruvec, or before that of its node.
    assert place.zone is not None
    same_node = place.memory.layout.node_zone(place.page.link)[0] == place.zone.node
    if place.guards.lruvec_has_lock or same_node:
        why = f"isolates a page of another zone, under the right lock, and migrates it into {place.zone}"
        return Outcome(name, READS_WRONG, why, guard=RUN_TIME)
    return outcome._replace(why=f"takes a page of another node under the lru_lock of node {place.zone.node}")


def isolate_freepages_block(place: Place) -> Outcome:
    """Model ``isolate_freepages_block()``, which takes free pages."""
    name = "isolate_freepages_block"
    guard = _not_reached(place)
    if guard:
        return _refused(place, name, guard)
    outcome = _takes(place, name, place.page.buddy, "PageBuddy")
    if outcome.outcome == SAFE and place.is_foreign and place.can_be_free:
        why = f"{_once_free(place)}takes it under the lock of {place.zone}, off a list of another zone"
        return Outcome(name, READS_WRONG, why, guard=NO_CHECK)
    return outcome


def _once_free(place: Place) -> str:
    """Say of a page that can be free that it isn't now."""
    if place.page.buddy:
        return ""
    return f"once the page is free{f' ({place.doubt})' if place.doubt else ''}, "


def fast_isolate_freepages(place: Place) -> Outcome:
    """Model ``fast_isolate_freepages()``, which takes pages off the zone's free lists."""
    name = "fast_isolate_freepages"
    if not place.guards.fast_search:
        return Outcome(name, SAFE, "not before Linux 5.1")
    if place.page.state != OFFLINE and place.page.buddy and place.outside(place.page):
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
        return _refused(place, name, guard)
    return isolate_freepages_block(place)._replace(function=name)


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
    return set_pfnblock_flags_mask(place, place.first)._replace(function=name)


def reset_isolation_suitable(place: Place) -> Outcome:
    """Model ``reset_isolation_suitable()``, which clears the skip bit through an LRU page or a free page."""
    name = "reset_isolation_suitable"
    page = place.page
    if page.state == OFFLINE:
        return Outcome(name, SAFE, "pfn_to_online_page() returns NULL")
    if not (page.lru or page.buddy or page.state == POISONED):
        return Outcome(name, SAFE, "passes over the page: it is neither PageLRU nor PageBuddy")
    return set_pfnblock_flags_mask(place, page)._replace(function=name)


def _block_refusal(place: Place) -> str | None:
    """Say why ``move_freepages_block()`` refuses the block, if it does."""
    zone, layout = place.zone, place.memory.layout
    assert zone is not None
    start = place.page.pfn & -layout.pageblock_nr_pages
    end = start + layout.pageblock_nr_pages
    # Up to 6.9 it began at the page that it was called for, if the zone didn't span the block's first.
    if place.guards.moves_whole_blocks and not zone.spans(start):
        return f"{zone} doesn't span the block's first pfn, {start:#x}"
    return None if zone.spans(end - 1) else f"{zone} doesn't span the block's last pfn, {end - 1:#x}"


def move_freepages_block(place: Place) -> Outcome:
    """
    Model ``move_freepages_block()`` as called for a free page of the walked zone in the same block.

    It asks whether the zone spans the block's ends, and not which zone has the pages between. Since Linux 6.10,
    ``prep_move_freepages_block()`` asks and ``__move_freepages_block()`` moves.
    """
    name = "move_freepages_block"
    page = place.page
    refusal = _block_refusal(place)
    if refusal:
        return Outcome(name, REFUSES, refusal, guard=RUN_TIME if place.is_foreign else None)
    if page.state == OFFLINE:
        return Outcome(name, READS_WRONG, "takes every pfn of the block for a page")
    if place.guards.moves_whole_blocks:
        outcome = set_pfnblock_flags_mask(place, place.start)
        if outcome.outcome != SAFE:
            why = f"sets the migratetype through the block's first page, {place.start.pfn:#x}: {outcome.why}"
            return Outcome(name, outcome.outcome, why, outcome.address)
    if place.is_foreign and (page.buddy or place.can_be_free):
        if not place.enters:
            return Outcome(name, SAFE, f"begins at no page of {place.zone}: none that can be free leads to this one")
        return Outcome(name, BUG, f"{_once_free(place)}{_moves(place)}", guard=VM_BUG_ON)
    if page.buddy:
        if page.link != place.zone_link:
            return Outcome(name, BUG, _moves(place), guard=VM_BUG_ON)
        return Outcome(name, SAFE, f"the page is of {place.zone}")
    return Outcome(name, SAFE, "passes over the page: it isn't PageBuddy")


def _moves(place: Place) -> str:
    moves = f"moves the page to a list of {place.zone}"
    if place.guards.debug_vm is False:
        return f"{moves}: without CONFIG_DEBUG_VM there is no VM_BUG_ON_PAGE(page_zone(page) != zone)"
    return f"VM_BUG_ON_PAGE(page_zone(page) != zone); else {moves}"


def prep_move_freepages_block(place: Place) -> Outcome:
    """Model ``prep_move_freepages_block()``, which counts the block's free and movable pages as the zone's."""
    name = "prep_move_freepages_block"
    refusal = _block_refusal(place)
    if refusal:
        return Outcome(name, REFUSES, refusal, guard=RUN_TIME)
    # A wrong count decides whether the block is claimed, and nothing else.
    return Outcome(name, SAFE, f"counts the page as one of {place.zone} if it is free or movable", guard=NO_CHECK)


def set_migratetype_isolate(place: Place) -> Outcome:
    """
    Model ``set_migratetype_isolate()`` and ``unset_migratetype_isolate()``.

    They take the zone from the block's first page and move what is free as ``move_freepages_block()`` does.
    """
    name = "set_migratetype_isolate"
    if place.start.link != place.zone_link:
        return Outcome(name, SAFE, f"the block's first page isn't of {place.zone}", guard=RUN_TIME)
    return move_freepages_block(place)._replace(function=name)


def __free_one_page(place: Place) -> Outcome:
    """Model buddy merging: the page as the buddy of one that is freed, and as the one that is freed."""
    name = "__free_one_page"
    page = place.page
    if page.state != INITIALIZED:
        if page.buddy:
            return Outcome(name, READS_WRONG, "page_is_buddy() compares what happens to be in the entry")
        return Outcome(name, SAFE, "page_is_buddy(): the entry isn't PageBuddy")
    if not place.outside(page):
        return Outcome(name, SAFE, "the page is of the zone that it links to")
    if page.reserved:
        return Outcome(name, SAFE, "PG_reserved and not PageBuddy: not in the allocator")
    if place.guards.debug_vm:
        return Outcome(name, BUG, "VM_BUG_ON_PAGE(bad_range()) when it is freed; this kernel has CONFIG_DEBUG_VM")
    return Outcome(name, READS_WRONG, "puts the page on a free list of the zone that it links to")
