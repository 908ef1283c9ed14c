# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compaction's cached pfns outside their zone.

``compact_cached_migrate_pfn[]`` and ``compact_cached_free_pfn`` say where the two scanners go on next time,
``compact_init_migrate_pfn`` and ``compact_init_free_pfn`` where they last began.

- A zone that was never compacted has zeros.
- ``reset_cached_positions()`` sets the start of the zone and the start of its last pageblock, which is below the zone
  if that begins inside the block.
- The migrate scanner stores ends of pageblocks (``update_cached_migrate()``), up to a pageblock beyond the zone.
- ``fast_isolate_freepages()`` steps back by a pageblock.

So a cursor may be up to one pageblock outside. One that is farther is left over from when the zone was larger, or was
overwritten. ``compact_zone()`` compares both cached pfns with the zone and resets them, so nothing follows them; they
tell of damage nearby or of memory that was removed.

- note: a pfn outside the zone.
- warning: a number that no machine of this kind has as a pfn.

``detail`` has the ``member`` and its ``value``.

Kernel facts: bugs 10, 11 and 12 (scanners that left their zone); section 8.

Example: a dump of amd64 6.12 in which ``compact_cached_free_pfn`` of DMA32 was overwritten with an address.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import NOTE, WARNING, Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Commit, Rule, never_described, no_matches


def check_map(memory: MemoryMap) -> Iterator[Finding]:
    """Compare each cursor with its zone."""
    slack = memory.layout.pageblock_nr_pages
    for zone in memory.populated_zones:
        for member, value in zone.state.cursors if zone.state is not None else ():
            if value == 0 or zone.start_pfn - slack <= value <= zone.end_pfn + slack:
                continue
            no_pfn = bool(memory.pfn_limit) and value > memory.pfn_limit + slack
            yield Finding(
                RULE.id,
                WARNING if no_pfn else NOTE,
                zone.start_pfn,
                zone.end_pfn,
                zone.node,
                zone.name,
                f"{zone} [{zone.start_pfn:#x}, {zone.end_pfn:#x}) has {member} {value:#x}"
                + (", which is no pfn" if no_pfn else "")
                + ": outside the zone; compact_zone() resets it before it uses it",
                {"member": member, "value": value},
            )


RULE = Rule(
    "compaction-cursor",
    "compaction's cached pfns outside their zone",
    ("compact_zone", "isolate_migratepages", "isolate_freepages", "fast_isolate_freepages", "reset_isolation_suitable"),
    (
        Commit(
            "6b0868c820ff",
            "mm/compaction.c: correct zone boundary handling when resetting pageblock skip hints",
            "the reset of skip hints left the zone (v5.1)",
        ),
        Commit(
            "6e2b7044c199",
            "mm, compaction: make fast_isolate_freepages() stay within zone",
            "the fast search for free pages left the zone (v5.12)",
        ),
    ),
    no_matches,
    never_described,
    check_map=check_map,
    documentation=__doc__,
)
