# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages whose zone ID is not below ``MAX_NR_ZONES``, or whose node has no pgdat.

``page_zone()`` is ``&NODE_DATA(nid)->node_zones[zone ID]`` without a check. A zone ID out of the array yields
whatever follows ``node_zones`` in ``struct pglist_data``, taken for a ``struct zone``: its lock, its free lists,
its counters. A node without a pgdat yields an address near zero, and the first access faults.

``detail`` has the ``node`` and ``zone_id`` that the first page links to, ``max_nr_zones``, and its raw ``flags`` word;
``zone_struct`` is the address that ``page_zone()`` returns (null where the node has no pgdat), ``member`` the member of
``struct pglist_data`` that lies there. ``stale`` is true for a run of old data, where every page may link elsewhere.

Always an error. What keeps kernels alive is that such pages are PG_reserved and nothing frees or
isolates them.

Example: Debian 6.12 on amd64 with 400 MiB: ACPI tables right above the end of the last zone are reserved;
``init_reserved_page()`` looks for the zone that spans them, finds none, and leaves the zone ID one behind
the last, 5 of 5 zones.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, Finding
from mminspect.memmap.chunk import STALE, Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import page_to_nid, page_zone_address, page_zonenum
from mminspect.rules.base import Commit, Match, Rule, WhatIs


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find runs with one impossible link."""
    for run in chunk.runs:
        if run.judged and memory.zone(*memory.layout.node_zone(run.link)) is None:
            flags = int(chunk.flags[run.start - chunk.start_pfn])
            # Stale data has as many links as entries; they are one finding.
            key = "stale" if run.state == STALE else run.link
            yield Match(run.start, run.end, (key, run.link if run.state != STALE else None), flags)


def describe(match: Match, memory: MemoryMap, what_is: WhatIs) -> Finding:
    """Say which memory ``page_zone()`` would use."""
    layout = memory.layout
    word = match.value
    index, node = page_zonenum(layout, word), page_to_nid(layout, word)
    key = match.key[1]
    if key is not None:
        # NODE_NOT_IN_PAGE_FLAGS has the node in a table, not in the word.
        node, index = layout.node_zone(key)
    address, member = page_zone_address(memory, node, index)
    if address is None:
        where = f"node {node} has no pgdat: page_zone() is near NULL and the first access faults"
    else:
        where = f"page_zone() is {address:#x}, inside pglist_data.{member} of node {node}, which is no zone"
    return Finding(
        RULE.id,
        ERROR,
        match.start,
        match.end,
        node,
        None,
        f"zone id {index} of {layout.max_nr_zones} zones on node {node}; {where}",
        {
            "node": node,
            "zone_id": index,
            "max_nr_zones": layout.max_nr_zones,
            "flags": word,
            "zone_struct": address,
            "member": member,
            "stale": key is None,
        },
    )


RULE = Rule(
    "zone-id",
    "pages that link to a zone or node that doesn't exist",
    ("page_zone", "page_zonenum", "page_pgdat", "set_pfnblock_flags_mask", "isolate_migratepages_block"),
    (
        Commit(
            "61167ad5fecd",
            "mm: pass nid to reserve_bootmem_region()",
            "reserved memory outside memblock.memory got node MAX_NUMNODES (v6.5)",
        ),
        Commit(
            "6a9531c3a880",
            "memblock: fix crash when reserved memory is not added to memory",
            "its fix (v6.8)",
        ),
    ),
    check,
    describe,
    documentation=__doc__,
)
