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

Example: a dump of two NUMA nodes in which ``zone->node`` of node 1's DMA32 was set to 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, ZONE
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import MapCheck, Rule, Violation
from mminspect.rules.commits import commit


def check(memory: MemoryMap) -> Iterator[Violation]:
    """Compare the links of every populated zone and its node."""
    for node in memory.nodes:
        zones = [zone for zone in memory.populated_zones if zone.node == node.nid]
        if not zones:
            continue
        if node.node_id not in (None, node.nid):
            yield Violation(
                ERROR,
                f"node {node.nid} has node_id {node.node_id} in its pgdat",
                {"member": "node_id", "value": node.node_id, "expected": node.nid},
                of=node,
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
                yield Violation(
                    ERROR,
                    f"{zone} has {member} {shown[0]}, not {shown[1]}: reclaim and statistics go to another node",
                    {"member": member, "value": value, "expected": expected},
                    of=zone,
                )


RULE = Rule(
    summary="zones whose links to their node are wrong",
    functions=("zone_to_nid", "page_pgdat", "page_to_nid", "lruvec_pgdat"),
    commits=(commit("f85086f95fa3", "memory got a wrong node after hotplug"),),
    about=ZONE,
    checks=(MapCheck(check),),
)
