# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Places where the running kernel's own files say something else than its memory map.

On a live kernel only: ``/proc/pagetypeinfo`` has the pageblock order, ``/proc/zoneinfo`` the span of each zone, and
``/proc/iomem`` the System RAM. They are computed by the kernel from the same structures that mminspect decodes, so a
disagreement means that mminspect or the kernel is wrong. Nothing else in the report should be believed then.

Memory hotplug during the scan is not a disagreement: the files are compared only if the memory map was the same
before and after they were read.

Always an error.

Example: ``mminspect --pageblock-order 10 scan`` on a kernel whose pageblocks have order 9.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, TARGET
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.proc import ProcFiles
from mminspect.memorymap.ranges import subtract
from mminspect.rules.base import ProcCheck, Rule, Violation


def check(memory: MemoryMap, files: ProcFiles) -> Iterator[Violation]:
    """
    Compare the memory map with what the kernel says.

    :param files: Read while the memory map did not change.
    """
    order = memory.layout.pageblock_order
    if files.pageblock_order not in (None, order):
        yield _violation(
            memory,
            (0, 0),
            f"/proc/pagetypeinfo says that a pageblock has order {files.pageblock_order}, decoded: {order}",
        )
    zones = {(zone.node, zone.name): zone for zone in memory.zones}
    for told in files.zones:
        zone = zones.get((told.node, told.name))
        if zone is None:
            what = f"/proc/zoneinfo has node {told.node} zone {told.name}, which was not found"
            yield _violation(memory, (0, 0), what)
            continue
        # A zone without present pages is printed without its start.
        start_differs = told.present and told.start_pfn is not None and told.start_pfn != zone.start_pfn
        if (zone.spanned, zone.present) != (told.spanned, told.present) or start_differs:
            yield _violation(
                memory,
                (zone.start_pfn, zone.end_pfn),
                f"/proc/zoneinfo says of {zone}: start {told.start_pfn}, spanned {told.spanned}, present "
                f"{told.present}; decoded: start {zone.start_pfn}, spanned {zone.spanned}, present {zone.present}",
            )
    for pages in subtract(files.ram, list(memory.online_ranges())):
        yield _violation(memory, pages, "/proc/iomem says that this is System RAM, but no online section has it")


def _violation(memory: MemoryMap, pages: tuple[int, int], message: str) -> Violation:
    return Violation(ERROR, message, {}, of=memory, pages=pages)


RULE = Rule(
    summary="the running kernel's files in /proc contradict its memory map",
    functions=("pagetypeinfo_show", "zoneinfo_show_print", "iomem_resource"),
    about=TARGET,
    checks=(ProcCheck(check),),
    explains=None,
)
