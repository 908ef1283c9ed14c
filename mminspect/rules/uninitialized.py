# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Entries of the memmap that no initialiser wrote.

Every struct page that ``pfn_to_online_page()`` returns must have gone through ``__init_single_page()``. One
that did not holds whatever was in its memory. Kernel code that walks pfns takes it for a page: zeros
look like an unused page of node 0 and the first zone, which is the wrong zone almost everywhere.

``detail.kind`` says what is in the entry:

- ``zeroed``: all bytes are zero. ``__init_single_page()`` leaves -1 in ``_mapcount``, so no initialised entry
  ever looks like this.
- ``poisoned``: ``page->flags`` is ``PAGE_POISON_PATTERN``, written to memory for struct pages on kernels with
  ``CONFIG_DEBUG_VM``. ``PF_POISONED_CHECK()`` panics on it.
- ``stale``: the link is impossible and the reference count is no count: old data.
- ``deferred``: deferred initialisation has not come this far yet (``pgdat->first_deferred_pfn``).

``detail.spanned_by`` lists the zones, ``[node, zone ID]``, that span any of the pages.

Inside a zone's span this is an error, since walkers of the zone reach the entry. Outside every span
nothing but pfn walkers (``/proc/kpageflags``, hotplug) does: a warning. Deferred is a note.

Example: Debian 5.10 on i386, booted with ``memmap=0x9c000$0xa17b000``: the reserved range was in no
memblock region, and [0xa17b, 0xa217) stayed zero.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, NOTE, WARNING, Finding
from mminspect.memmap.chunk import DEFERRED, UNINITIALIZED_KINDS, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Commit, Match, Rule, WhatIs, counted


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find runs of one kind."""
    for run in chunk.runs:
        if run.state in UNINITIALIZED_KINDS:
            yield Match(run.start, run.end, run.state)


def describe(match: Match, memory: MemoryMap, what_is: WhatIs) -> Finding:
    """Grade by the zones that span the run."""
    kind = UNINITIALIZED_KINDS[match.key]
    zones = memory.zones_spanning(match.start, match.end)
    inside = ", ".join(map(str, zones))
    if match.key == DEFERRED:
        severity = NOTE
        why = "deferred initialisation has not come this far"
    elif zones:
        severity = ERROR
        why = f"inside {inside}: whoever walks the zone takes them for pages"
    else:
        severity = WARNING
        why = "no zone spans them, so only pfn walkers reach them"
    pages = match.end - match.start
    return Finding(
        RULE.id,
        severity,
        match.start,
        match.end,
        zones[0].node if zones else None,
        zones[0].name if zones else None,
        f"{counted(pages, 'struct page')} never initialised ({kind}); {why}",
        {"kind": kind, "spanned_by": [[z.node, z.index] for z in zones]},
    )


RULE = Rule(
    "uninitialized",
    "memmap entries that no initialiser wrote",
    (
        "page_zone",
        "page_to_nid",
        "__pageblock_pfn_to_page",
        "isolate_migratepages_block",
        "isolate_freepages_block",
        "move_freepages_block",
        "stable_page_flags",
    ),
    (
        Commit(
            "907ec5fca3dc",
            "mm: zero remaining unavailable struct pages",
            "zeroes entries that were left as they were (v4.20)",
        ),
        Commit(
            "e822969cab48",
            "mm/page_alloc.c: fix uninitialized memmaps on a partially populated last section",
            "the tail of the last section (v5.6)",
        ),
        Commit(
            "4b094b7851bf",
            "mm/page_alloc.c: initialize memmap of unavailable memory directly",
            "a real initialisation instead of zeros (v5.6)",
        ),
        Commit(
            "0740a50b9baa",
            "mm/page_alloc.c: refactor initialization of struct page for holes in memory layout",
            "holes get the zone and node of a neighbour (v5.12)",
        ),
        Commit(
            "2ebc3b68ac40",
            "mm/mm_init: init holes in the end of the memory map for FLATMEM",
            "the tail of a FLATMEM mem_map (v6.15)",
        ),
    ),
    check,
    describe,
    documentation=__doc__,
)
