# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What stock kernels do to their memory map on many machines: quirks that explain a finding.

Each is recognized by what it leaves in memory, and has the ID of a known bug (``mminspect bugs``).
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from mminspect.findings import ERROR, NOTE, WARNING, Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.zones import Zone


class Quirk(NamedTuple):
    """
    A quirk of stock kernels.

    :ivar harmful: Whether the kernel comes to harm by it.
    :ivar why: How it comes about, and why it does no harm if it doesn't.
    :ivar rules: Whose findings it can explain.
    :ivar explains: Tells whether it explains a finding of these whose consequences are known.
    """

    id: str
    harmful: bool
    why: str
    rules: tuple[str, ...]
    explains: Callable[[Finding, MemoryMap], bool]


def _is_reserved_hole(finding: Finding, severity: str) -> bool:
    """Tell whether a finding is about reserved pages of a severity that the rule alone gave."""
    by_rule = "severity_by_rule" not in finding.detail
    return finding.severity == severity and by_rule and bool(finding.detail.get("reserved"))


def _linked(finding: Finding, memory: MemoryMap) -> Zone | None:
    linked = finding.detail.get("linked") if finding.rule == "zone-span" else None
    return memory.zone(*linked) if linked is not None else None


def _outside(finding: Finding, memory: MemoryMap) -> list[tuple[int, int, Zone | None, int]]:
    """Get the parts of a pageblock that their zone doesn't span: start, end, zone, zone ID."""
    result = []
    for start, end, node, index in finding.detail.get("runs", ()):
        zone = memory.zone(node, index)
        if zone is None or start < zone.start_pfn or zone.end_pfn < end:
            result.append((start, end, zone, index))
    return result


def _pfn_0(finding: Finding, memory: MemoryMap) -> bool:
    return (finding.start_pfn, finding.end_pfn) == (0, 1) and _is_reserved_hole(finding, NOTE)


def _tail(finding: Finding, memory: MemoryMap) -> bool:
    zone, shift = _linked(finding, memory), memory.layout.pfn_section_shift
    if zone is None or shift is None or not _is_reserved_hole(finding, NOTE):
        return False
    return zone.end_pfn <= finding.start_pfn and not finding.end_pfn & (1 << shift) - 1


def _hole(finding: Finding, memory: MemoryMap) -> bool:
    return _is_reserved_hole(finding, NOTE)


def _hole_of_zone_above(finding: Finding, memory: MemoryMap) -> bool:
    if not _is_reserved_hole(finding, WARNING):
        return False
    if finding.rule == "zone-span":
        zone = _linked(finding, memory)
        return zone is not None and finding.end_pfn <= zone.start_pfn
    return all(zone is not None and end <= zone.start_pfn for _, end, zone, _ in _outside(finding, memory))


def links_hole_to_zone_0(finding: Finding) -> bool:
    """Tell whether a finding is about reserved pages inside another zone that link to zone 0 of node 0."""
    detail = finding.detail
    linked = finding.rule == "zone-span" and detail.get("linked") == [0, 0]
    return linked and bool(detail.get("spanned_by")) and bool(detail.get("reserved"))


def _hole_to_zone_0(finding: Finding, memory: MemoryMap) -> bool:
    detail = finding.detail
    if finding.rule == "zone-span":
        return links_hole_to_zone_0(finding)
    if finding.severity == NOTE or not detail.get("reserved"):
        return False
    outside = _outside(finding, memory)
    return bool(outside) and all(
        zone is not None and (zone.node, zone.index) == (0, 0) and zone.end_pfn <= start
        for start, _, zone, _ in outside
    )


def zone_id_behind(finding: Finding, memory: MemoryMap) -> tuple[bool, bool]:
    """Tell whether reserved pages have the zone ID behind the last, and whether a zone spans any of them."""
    detail, last = finding.detail, memory.layout.max_nr_zones
    if finding.rule == "zone-id" and "zone_id" in detail:
        reserved = detail["flags"] & memory.layout.page.reserved and not detail["stale"]
        found = bool(reserved) and detail["zone_id"] == last and detail["zone_struct"] is not None
        return found, bool(memory.zones_spanning(finding.start_pfn, finding.end_pfn))
    if finding.rule != "mixed-zone" or finding.severity != ERROR or "severity_by_rule" in detail:
        return False, False
    wrong = [part for part in _outside(finding, memory) if part[2] is None]
    found = bool(wrong) and detail.get("reserved", False) and all(index == last for *_, index in wrong)
    return found, any(memory.zones_spanning(start, end) for start, end, *_ in wrong)


def _zeroed_on_flatmem(finding: Finding, memory: MemoryMap, spanned: bool) -> bool:
    detail = finding.detail
    if not memory.layout.flatmem or detail.get("kind") != "zeroed":
        return False
    return bool(detail["spanned_by"]) == spanned


def _of_compound_pages(finding: Finding, problem: str) -> bool:
    compound = finding.detail.get("compound")
    return finding.detail.get("problem") == problem and compound is not None and compound > 1


def _interleaved(finding: Finding, memory: MemoryMap) -> bool:
    if "cause" in finding.detail:
        return True
    by_zones = finding.rule == "mixed-zone" and finding.severity == ERROR and "severity_by_rule" in finding.detail
    return by_zones and not finding.detail.get("hidden") and not _outside(finding, memory)


def _late_block(finding: Finding, memory: MemoryMap) -> bool:
    detail, nr_pages = finding.detail, memory.layout.pageblock_nr_pages
    if detail.get("problem") != "migratetype" or (detail.get("list"), detail.get("pageblock")) != (
        "UNMOVABLE",
        "MOVABLE",
    ):
        return False
    starts = [z.start_pfn for z in memory.populated_zones if (z.node, z.name) == (finding.node, finding.zone)]
    return all(
        start & nr_pages - 1 and pfn // nr_pages == start // nr_pages for start in starts for pfn in detail["pfns"]
    )


SPAN, MIXED = ("zone-span",), ("mixed-zone",)
# The first that explains a finding counts.
QUIRKS = (
    Quirk(
        "pfn-0",
        False,
        "firmware has the first page, so no zone begins before pfn 1, and nothing walks there",
        SPAN,
        _pfn_0,
    ),
    Quirk(
        "tail-of-the-last-section",
        False,
        "the memmap comes in whole sections; what is behind the end of memory belongs to the last zone, and its walks "
        "end before",
        SPAN,
        _tail,
    ),
    Quirk("hole-outside-zones", False, "a hole gets the zone of a neighbor whose walks don't come there", SPAN, _hole),
    Quirk(
        "zone-boundary",
        False,
        "memory of two zones or nodes meets inside a pageblock, and no zone spans across",
        MIXED,
        lambda finding, memory: finding.severity == NOTE,
    ),
    Quirk(
        "zones-overlap",
        False,
        "zones of two nodes can overlap, and those that a policy placed or that were plugged in; pageblocks in which "
        "both have pages have findings of their own",
        ("zone-overlap",),
        lambda finding, memory: finding.severity == NOTE,
    ),
    Quirk(
        "hole-of-the-zone-above",
        False,
        "reserved pages behind the end of low memory get the zone above, which begins behind them",
        (*SPAN, *MIXED),
        _hole_of_zone_above,
    ),
    Quirk(
        "reserved-page-in-no-zone",
        False,
        "init_reserved_page() found no zone that spans the page; no walk of a zone comes there",
        ("zone-id", *MIXED),
        lambda finding, memory: zone_id_behind(finding, memory) == (True, False),
    ),
    Quirk(
        "zone-id-inside-a-zone",
        True,
        "init_reserved_page() asked another node for the zone; the walks of the zone that spans the page come there",
        ("zone-id", *MIXED),
        lambda finding, memory: zone_id_behind(finding, memory) == (True, True),
    ),
    Quirk(
        "holes-in-zone-0",
        True,
        "holes link to zone 0 of node 0, inside another zone (fixed by 0740a50b9baa)",
        (*SPAN, *MIXED),
        _hole_to_zone_0,
    ),
    Quirk(
        "unwritten-holes",
        True,
        "kernels such as 5.10 don't initialize holes of FLATMEM; they read as pages of zone 0",
        ("uninitialized",),
        lambda finding, memory: _zeroed_on_flatmem(finding, memory, True),
    ),
    Quirk(
        "zeroed-tail-of-mem-map",
        False,
        "FLATMEM's mem_map ends at a multiple of the largest block; nobody initialized what is behind the last zone",
        ("uninitialized",),
        lambda finding, memory: _zeroed_on_flatmem(finding, memory, False),
    ),
    Quirk(
        "device-tail-pages",
        True,
        "compound pages of device memory in a section of RAM: the kernel took their struct pages for shared ones",
        ("device-memory",),
        lambda finding, memory: _of_compound_pages(finding, "uninitialized"),
    ),
    Quirk(
        "device-pageblock-types",
        False,
        "compound pages of device memory that are larger than a pageblock: only the first block is typed",
        ("device-memory",),
        lambda finding, memory: _of_compound_pages(finding, "migratetype"),
    ),
    Quirk(
        "interleaved-nodes",
        True,
        "a zone spans a pageblock in which another has pages; move_freepages_block() asks for the span only",
        (*MIXED, "free-list", "per-cpu-list", "zone-pages"),
        _interleaved,
    ),
    Quirk(
        "interleaved-nodes",
        False,
        "a zone spans a pageblock in which another has pages; the functions that would take them ask and refuse it",
        MIXED,
        lambda finding, memory: finding.severity == WARNING and finding.detail.get("severity_by_rule") == NOTE,
    ),
    Quirk(
        "node-edge-in-movable-block",
        False,
        "the pageblock begins in another node, which set its type after these pages were freed",
        ("free-list",),
        _late_block,
    ),
)


_OF_RULE: dict[str, list[Quirk]] = {}
for _quirk in QUIRKS:
    for _name in _quirk.rules:
        _OF_RULE.setdefault(_name, []).append(_quirk)


def known_quirk(finding: Finding, memory: MemoryMap) -> dict[str, Any] | None:
    """Find the quirk that explains a finding, as the report's ``known`` has it."""
    for quirk in _OF_RULE.get(finding.rule, ()):
        if quirk.explains(finding, memory):
            return {"id": quirk.id, "harmful": quirk.harmful, "why": quirk.why}
    return None
