# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Zones and nodes that disagree about which belongs to which.

``page_pgdat(page)`` goes through ``NODE_DATA(page_to_nid(page))``, other code through ``page_zone(page)->zone_pgdat``
and ``zone_to_nid(zone)``. All must lead to one node: ``zone->zone_pgdat`` is the pgdat that the zone is in,
``zone->node`` (with NUMA) its number, and ``pgdat->node_id`` too. If they don't, LRU lists, statistics and reclaim of
one node are applied to pages of another.

Zones that span nothing are not judged.

``detail`` has the ``member`` that is wrong, its ``value`` and what was ``expected``.

Always an error.

Kernel facts: bugs 3, 13 and 18 (wrong node IDs); invariant I3.

Example: a dump of two NUMA nodes in which ``zone->node`` of node 1's DMA32 was set to 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Commit, Rule, never_described, no_matches


def check_map(memory: MemoryMap) -> Iterator[Finding]:
    """Compare the links of every populated zone and its node."""
    for node in memory.nodes:
        zones = [zone for zone in memory.populated_zones if zone.node == node.nid]
        if not zones:
            continue
        if node.node_id not in (None, node.nid):
            yield Finding(
                RULE.id,
                ERROR,
                node.start_pfn,
                node.start_pfn + node.spanned,
                node.nid,
                None,
                f"node {node.nid} has node_id {node.node_id} in its pgdat",
                {"member": "node_id", "value": node.node_id, "expected": node.nid},
            )
        for zone in zones:
            if zone.state is None:
                continue
            for member, value, expected in (
                ("node", zone.state.node, node.nid),
                ("zone_pgdat", zone.state.pgdat, node.address),
            ):
                if value in (None, expected):
                    continue
                shown = (f"{value:#x}", f"{expected:#x}") if member == "zone_pgdat" else (value, expected)
                yield Finding(
                    RULE.id,
                    ERROR,
                    zone.start_pfn,
                    zone.end_pfn,
                    node.nid,
                    zone.name,
                    f"{zone} has {member} {shown[0]}, not {shown[1]}: reclaim and statistics go to another node",
                    {"member": member, "value": value, "expected": expected},
                )


RULE = Rule(
    "node-link",
    "zones whose links to their node are wrong",
    ("zone_to_nid", "page_pgdat", "page_to_nid", "lruvec_pgdat"),
    (
        Commit(
            "f85086f95fa3",
            "mm: don't rely on system state to detect hot-plug operations",
            "memory got a wrong node after hotplug (v5.9)",
        ),
    ),
    no_matches,
    never_described,
    check_map=check_map,
    documentation=__doc__,
)
