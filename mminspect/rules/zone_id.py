# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages whose zone ID is not below ``MAX_NR_ZONES``, or whose node has no pgdat.

``page_zone()`` is ``&NODE_DATA(nid)->node_zones[zone ID]`` without a check. A zone ID out of the array yields
whatever follows ``node_zones`` in ``struct pglist_data``, taken for a ``struct zone``: its lock, its free lists,
its counters. A node without a pgdat yields an address near zero, and the first access faults.

``detail`` has the ``node`` and ``zone_id`` that the first page links to, ``max_nr_zones``, and its raw ``flags``
word; ``zone_struct`` is the address that ``page_zone()`` returns (null where the node has no pgdat), ``member`` the
member of ``struct pglist_data`` that lies there. ``stale`` is true for a run of old data, where every page may link
elsewhere. ``hardware`` is ``one bit`` if the links of a single page that isn't PG_reserved differ from those on both
sides of it in one bit.

Always an error. What keeps kernels alive is that such pages are PG_reserved and nothing frees or
isolates them.

Example: Debian 6.12 on amd64 with 400 MiB: ACPI tables right above the end of the last zone are reserved;
``init_reserved_page()`` looks for the zone that spans them, finds none, and leaves the zone ID one behind
the last, 5 of 5 zones.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR
from mminspect.memmap.chunk import STALE, Chunk
from mminspect.memmap.page import flags_link
from mminspect.memorymap.bits import looks_like_hardware, one_bit
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import page_zone_address
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation
from mminspect.rules.commits import commit


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Find runs with one impossible link."""
    layout = memory.layout
    links = {run.link for run in chunk.runs}
    wrong = {link for link in links if memory.zone(*layout.node_zone(link)) is None}
    for position, run in enumerate(chunk.runs if wrong else ()):
        if run.link in wrong and run.judged:
            flags = int(chunk.flags[run.start - chunk.start_pfn])
            if run.state != STALE:
                yield Match(run.start, run.end, _flipped(chunk, position, memory), run.link, flags)
                continue
            # Stale data has as many links as entries; they are one finding.
            yield Match(run.start, run.end, "stale", flags_link(layout, flags), flags)


def _flipped(chunk: Chunk, position: int, memory: MemoryMap) -> str | None:
    """Tell whether a run is a single page whose flags differ in one bit from those on both sides of it."""
    around = chunk.runs[max(position - 1, 0) : position + 2]
    if len(around) != 3 or around[1].end - around[1].start != 1 or around[0].link != around[2].link:
        return None
    # What the kernel itself gets wrong is PG_reserved.
    if not around[0].judged or bool(chunk.reserved(around[1].start, around[1].end).any()):
        return None
    flags_of = memory.layout.flags_of_link
    return one_bit(flags_of(around[1].link), flags_of(around[0].link))


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Say which memory ``page_zone()`` would use."""
    layout = memory.layout
    assert match.link is not None
    node, index = layout.node_zone(match.link)
    difference = None if match.key == "stale" else match.key
    address, member = page_zone_address(memory, node, index)
    if address is None:
        where = f"node {node} has no pgdat: page_zone() is near NULL and the first access faults"
    else:
        where = f"page_zone() is {address:#x}, inside pglist_data.{member} of node {node}, which is no zone"
    return Violation(
        ERROR,
        f"zone id {index} of {layout.max_nr_zones} zones on node {node}; {where}"
        + looks_like_hardware(difference, "page->flags of its neighbors"),
        {
            "node": node,
            "zone_id": index,
            "max_nr_zones": layout.max_nr_zones,
            "flags": match.value,
            "zone_struct": address,
            "member": member,
            "stale": match.key == "stale",
            **({"hardware": difference} if difference else {}),
        },
    )


RULE = Rule(
    summary="pages that link to a zone or node that doesn't exist",
    functions=("page_zone", "page_zonenum", "page_pgdat", "set_pfnblock_flags_mask", "isolate_migratepages_block"),
    commits=(
        commit("61167ad5fecd", "reserved memory outside memblock.memory got node MAX_NUMNODES"),
        commit("6a9531c3a880", "its fix"),
    ),
    checks=(PageCheck(check, describe),),
    explains=1,
)
