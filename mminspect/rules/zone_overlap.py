# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Zones whose spans overlap.

The kernel allows it, so every walker of a zone must compare ``page_zone()``, or the node, of each pageblock:

- zones of two nodes overlap where the nodes' memory is interleaved;
- ZONE_MOVABLE overlaps the zone below it with ``kernelcore=mirror``, and after memory was onlined as movable;
- memory that was plugged in is added to a zone wherever it lies.

These are notes: walkers of both zones come to these pfns, and each compares ``page_zone()`` of a pageblock's ends, or
only whether its zone spans them. Where both have pages in one pageblock, rule mixed-zone says what they do.

Other zones of one node never overlap when they come from the firmware's memory map: their limits are addresses. If no
memory was plugged in, that is a warning; walkers that compare ``page_zone()`` are the guard.

``detail`` has the two ``zones``, ``[node, zone ID]`` each.

Example: a guest whose two nodes have every other 128 MiB: the DMA32 zones of both span the same pfns (a note).
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import NOTE, WARNING
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.zones import Zone
from mminspect.rules.base import MapCheck, Rule, Violation
from mminspect.rules.commits import commit

EARLY = "SECTION_IS_EARLY"
PLACED_BY_POLICY = ("Movable", "Device")


def check(memory: MemoryMap) -> Iterator[Violation]:
    """Compare the spans of every two zones."""
    pairs = list(_overlapping(memory))
    # Half a million sections are looked at only if it matters.
    plugged = bool(pairs) and _was_plugged(memory)
    for zone, other in pairs:
        yield _violation(zone, other, plugged)


def _was_plugged(memory: MemoryMap) -> bool:
    """Tell whether memory was plugged in. Some is there from the boot; kernels without the flag don't tell of it."""
    early = [EARLY in entry.flags for entry in memory.mem_sections]
    return any(early) and not all(early)


def _overlapping(memory: MemoryMap) -> Iterator[tuple[Zone, Zone]]:
    zones = sorted(memory.populated_zones, key=lambda zone: (zone.start_pfn, zone.node, zone.index))
    for position, zone in enumerate(zones):
        for other in zones[position + 1 :]:
            if other.start_pfn >= zone.end_pfn:
                break
            yield zone, other


def _violation(zone: Zone, other: Zone, plugged: bool) -> Violation:
    if zone.node != other.node:
        severity, why = NOTE, "they are of two nodes"
    elif zone.name in PLACED_BY_POLICY or other.name in PLACED_BY_POLICY:
        severity, why = NOTE, "a policy places such a zone, and not an address"
    elif plugged:
        severity, why = NOTE, "memory was plugged in"
    else:
        severity, why = WARNING, "they are of one node, and only walkers that compare page_zone() are safe"
    return Violation(
        severity,
        f"{zone} [{zone.start_pfn:#x}, {zone.end_pfn:#x}) and {other} [{other.start_pfn:#x}, {other.end_pfn:#x}) "
        f"overlap: {why}",
        {"zones": [[zone.node, zone.index], [other.node, other.index]]},
        of=zone,
        pages=(other.start_pfn, min(zone.end_pfn, other.end_pfn)),
    )


RULE = Rule(
    summary="zones whose spans overlap",
    functions=("zone_spans_pfn", "__pageblock_pfn_to_page", "set_zone_contiguous", "is_free_buddy_page"),
    commits=(commit("122e093c1734", "nodes that are not in the order of their addresses"),),
    checks=(MapCheck(check),),
)
