# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect zones`` shows: nodes, zones, sections and holes, as plain data."""

from __future__ import annotations

from typing import Any

from mminspect.kernel.kernel import Kernel
from mminspect.memorymap.describe import describe_zones
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import subtract
from mminspect.memorymap.sections import Section


def zones(kernel: Kernel) -> dict[str, Any]:
    """
    Summarize a memory map.

    :return: ``nodes``, ``zones`` (as in the report), ``sections`` (adjacent sections with equal flags joined) and
        ``holes``: pfn ranges inside a zone's span that are not online. ``incomplete``: why the vmcore is not whole.
    """
    memory, incomplete = kernel.memory, kernel.target.incomplete
    return {
        "nodes": [
            {
                "node": node.nid,
                "start_pfn": node.start_pfn,
                "end_pfn": node.start_pfn + node.spanned,
                "spanned": node.spanned,
                "present": node.present,
                "first_deferred_pfn": node.first_deferred_pfn,
            }
            for node in memory.nodes
            if node.online
        ],
        "zones": describe_zones(memory),
        "sections": [] if memory.layout.flatmem else _sections(memory),
        "holes": _holes(memory),
        **({} if incomplete is None else {"incomplete": incomplete.why}),
    }


def _sections(memory: MemoryMap) -> list[dict[str, Any]]:
    groups: list[tuple[Section, Section]] = []
    for section in memory.sections:
        if groups and groups[-1][1].nr + 1 == section.nr and groups[-1][1].flags == section.flags:
            groups[-1] = (groups[-1][0], section)
        else:
            groups.append((section, section))
    shift = memory.layout.pfn_section_shift
    assert shift is not None
    return [
        {
            "first": first.nr,
            "last": last.nr,
            "start_pfn": first.nr << shift,
            "end_pfn": (last.nr + 1) << shift,
            "flags": list(first.flags),
        }
        for first, last in groups
    ]


def _holes(memory: MemoryMap) -> list[dict[str, Any]]:
    online = list(memory.online_ranges())
    return [
        {"node": zone.node, "index": zone.index, "zone": zone.name, "start_pfn": start, "end_pfn": end}
        for zone in memory.populated_zones
        for start, end in subtract([(zone.start_pfn, zone.end_pfn)], online)
    ]
