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

- note: a pfn outside the zone. Only ``compact_zone()`` comes by, and it begins anew.
- warning: a number that no machine of this kind has as a pfn.

``detail`` has the ``member`` and its ``value``.

Example: a dump of amd64 6.12 in which ``compact_cached_free_pfn`` of DMA32 was overwritten with an address.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import NOTE, WARNING, ZONE
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import MapCheck, Rule, Violation
from mminspect.rules.commits import commit


def check(memory: MemoryMap) -> Iterator[Violation]:
    """Compare each cursor with its zone."""
    slack = memory.layout.pageblock_nr_pages
    for zone in memory.populated_zones:
        for member, value in zone.state.cursors if zone.state is not None else ():
            if value == 0 or zone.start_pfn - slack <= value <= zone.end_pfn + slack:
                continue
            no_pfn = bool(memory.pfn_limit) and value > memory.pfn_limit + slack
            yield Violation(
                WARNING if no_pfn else NOTE,
                f"{zone} [{zone.start_pfn:#x}, {zone.end_pfn:#x}) has {member} {value:#x}"
                + (", which is no pfn" if no_pfn else "")
                + ": outside the zone; compact_zone() resets it before it uses it",
                {"member": member, "value": value},
                of=zone,
            )


RULE = Rule(
    summary="compaction's cached pfns outside their zone",
    functions=(
        "compact_zone",
        "isolate_migratepages",
        "isolate_freepages",
        "fast_isolate_freepages",
        "reset_isolation_suitable",
    ),
    commits=(
        commit("6b0868c820ff", "the reset of skip hints left the zone"),
        commit("6e2b7044c199", "the fast search for free pages left the zone"),
    ),
    about=ZONE,
    checks=(MapCheck(check),),
)
