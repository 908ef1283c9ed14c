# SPDX-License-Identifier: LGPL-2.1-or-later
"""Zones as plain data, as reports have them."""

from __future__ import annotations

from typing import Any

from mminspect.memorymap.map import MemoryMap


def describe_zones(memory: MemoryMap) -> list[dict[str, Any]]:
    """List the zones that span pages, as the report's ``zones`` has it."""
    return [
        {
            "node": zone.node,
            "index": zone.index,
            "name": zone.name,
            "start_pfn": zone.start_pfn,
            "end_pfn": zone.end_pfn,
            "spanned": zone.spanned,
            "present": zone.present,
            "managed": zone.managed,
            "contiguous": zone.contiguous,
        }
        for zone in memory.populated_zones
    ]
