# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Entries of the memmap that no initializer wrote.

Every struct page that ``pfn_to_online_page()`` returns must have gone through ``__init_single_page()``. One
that did not holds whatever was in its memory. Kernel code that walks pfns takes it for a page: zeros
look like an unused page of node 0 and the first zone, which is the wrong zone almost everywhere.

Whether nobody wrote it, or somebody wrote over it, the entry doesn't tell. ``detail.kind`` says what is in it:

- ``zeroed``: all bytes are zero. ``__init_single_page()`` leaves -1 in ``_mapcount``, so no initialized entry
  ever looks like this.
- ``poisoned``: ``page->flags`` is ``PAGE_POISON_PATTERN``, written to memory for struct pages on kernels with
  ``CONFIG_DEBUG_VM``. ``PF_POISONED_CHECK()`` panics on it.
- ``stale``: the link is impossible and the reference count is no count: old data.
- ``deferred``: deferred initialization has not come this far yet (``pgdat->first_deferred_pfn``).

``detail.spanned_by`` lists the zones, ``[node, zone ID]``, that span any of the pages.

Inside a zone's span this is an error, since walkers of the zone reach the entry. Outside every span
nothing but pfn walkers (``/proc/kpageflags``, hotplug) does: a warning. Deferred is a note: only
``deferred_init_memmap()`` and ``deferred_grow_zone()`` come there, to initialize them.

Example: Debian 5.10 on i386, booted with ``memmap=0x9c000$0xa17b000``: the reserved range was in no
memblock region, and [0xa17b, 0xa217) stayed zero.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, NOTE, WARNING
from mminspect.memmap.chunk import DEFERRED, UNINITIALIZED_KINDS, Chunk
from mminspect.memorymap.layout import TAILS
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation, counted
from mminspect.rules.commits import commit


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find runs of one kind."""
    for run in chunk.runs:
        if run.state in UNINITIALIZED_KINDS:
            yield Match(run.start, run.end, run.state)


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Grade by the zones that span the run."""
    kind = UNINITIALIZED_KINDS[match.key]
    zones = memory.zones_spanning(match.start, match.end)
    inside = ", ".join(map(str, zones))
    if match.key == DEFERRED:
        severity = NOTE
        why = "deferred initialization has not come this far"
    elif zones:
        severity = ERROR
        whole = any(z.start_pfn <= match.start and match.end <= z.end_pfn for z in zones)
        why = f"{'' if whole else 'in part '}inside {inside}: whoever walks the zone takes them for pages"
    else:
        severity = WARNING
        why = "no zone spans them, so only pfn walkers reach them"
    return Violation(
        severity,
        f"{counted(match.pages, 'struct page')} not initialized ({kind}); {why}",
        {"kind": kind, "spanned_by": [[z.node, z.index] for z in zones]},
    )


RULE = Rule(
    summary="memmap entries that no initializer wrote",
    functions=(
        "page_zone",
        "page_to_nid",
        "__pageblock_pfn_to_page",
        "isolate_migratepages_block",
        "isolate_freepages_block",
        "move_freepages_block",
        "stable_page_flags",
    ),
    commits=(
        commit("907ec5fca3dc", "zeroes entries that were left as they were"),
        commit("e822969cab48", "the tail of the last section"),
        commit("4b094b7851bf", "a real initialization instead of zeros"),
        commit("0740a50b9baa", "holes get the zone and node of a neighbor"),
        commit("2ebc3b68ac40", "the tail of a FLATMEM mem_map"),
    ),
    needs=(TAILS,),
    checks=(PageCheck(check, describe),),
    explains=0,
)
