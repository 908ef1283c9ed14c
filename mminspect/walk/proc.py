# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where what the running kernel says in ``/proc`` disagrees with its memory map."""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, Finding
from mminspect.kernel.proc import ProcFiles, parse_system_ram, parse_zoneinfo
from mminspect.layout.orders import read_pagetypeinfo
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import subtract
from mminspect.rules.proc_disagrees import RULE_ID


def disagreements(memory: MemoryMap, files: ProcFiles) -> Iterator[Finding]:
    """
    Compare the memory map with what the kernel says.

    :param files: Read while the memory map did not change.
    """
    order = read_pagetypeinfo(files.pagetypeinfo)
    layout = memory.layout
    if order is not None and order != layout.pageblock_order:
        yield _finding(
            0, 0, f"/proc/pagetypeinfo says that a pageblock has order {order}, decoded: {layout.pageblock_order}"
        )
    zones = {(zone.node, zone.name): zone for zone in memory.zones}
    for told in parse_zoneinfo(files.zoneinfo):
        zone = zones.get((told.node, told.name))
        if zone is None:
            yield _finding(0, 0, f"/proc/zoneinfo has node {told.node} zone {told.name}, which was not found")
            continue
        decoded = (zone.spanned, zone.present)
        # A zone without present pages is printed without its start.
        start_differs = told.present and told.start_pfn is not None and told.start_pfn != zone.start_pfn
        if decoded != (told.spanned, told.present) or start_differs:
            yield _finding(
                zone.start_pfn,
                zone.end_pfn,
                f"/proc/zoneinfo says of {zone}: start {told.start_pfn}, spanned {told.spanned}, present "
                f"{told.present}; decoded: start {zone.start_pfn}, spanned {zone.spanned}, present {zone.present}",
            )
    online = list(memory.online_ranges())
    ram = subtract(parse_system_ram(files.iomem, layout.page_size), files.offline)
    for start, end in subtract(ram, online):
        yield _finding(start, end, "/proc/iomem says that this is System RAM, but no online section has it")


def _finding(start: int, end: int, message: str) -> Finding:
    return Finding(RULE_ID, ERROR, start, end, None, None, message)
