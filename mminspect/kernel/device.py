# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory of devices (ZONE_DEVICE): persistent memory, DAX, GPUs. It has struct pages, and none of it is online."""

from __future__ import annotations

from typing import NamedTuple

from drgn import Object, Program

from mminspect.kernel.resources import READ_ERRORS
from mminspect.layout.sections import device_pagemaps
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section


class DeviceMemory(NamedTuple):
    """
    Pages of one ``struct dev_pagemap``.

    :ivar start: First pfn.
    :ivar end: Pfn behind the last.
    :ivar pagemap: Address of the ``struct dev_pagemap``.
    :ivar kind: Its ``type`` in words, such as ``fs dax``; ``None`` if unknown.
    :ivar pageblock_flags: Offset of the pageblock bitmap in ``struct mem_section_usage``; ``None`` without one.
    """

    start: int
    end: int
    pagemap: int
    kind: str | None
    pageblock_flags: int | None = None

    def has(self, pfn: int) -> bool:
        """Tell whether a pfn is of this memory."""
        return self.start <= pfn < self.end

    def section(self, memory: MemoryMap, pfn: int) -> Section | None:
        """Get the section of a pfn, as far as it is of this memory; ``None`` if it has no memmap."""
        shift = memory.layout.pfn_section_shift
        if shift is None:
            return None
        nr = pfn >> shift
        entry = next((entry for entry in memory.mem_sections if entry.nr == nr), None)
        if entry is None or not entry.mem_map:
            return None
        pages = max(self.start, nr << shift), min(self.end, (nr + 1) << shift)
        bitmap = entry.usage + self.pageblock_flags if entry.usage and self.pageblock_flags is not None else 0
        return Section(nr, (pages,), entry.mem_map, bitmap, entry.flags)


def device_memory(prog: Program, memory: MemoryMap) -> list[DeviceMemory]:
    """Find the memory of devices; none where the target doesn't hold what tells of it."""
    layout = memory.layout
    if layout.flatmem:
        return []
    found = []
    try:
        usage = prog.type("struct mem_section_usage")
        offset = usage.member("pageblock_flags").offset if usage.has_member("pageblock_flags") else None
        for (start, end), pagemap in device_pagemaps(prog, layout.page_size.bit_length() - 1):
            found.append(DeviceMemory(start, end, pagemap.value_(), _kind(pagemap), offset))
    except READ_ERRORS:
        return found
    return found


def _kind(pagemap: Object) -> str | None:
    try:
        value = pagemap.type.value_()
        names = pagemap.prog_.type("enum memory_type").enumerators or ()
    except READ_ERRORS:
        return None
    name = next((item.name for item in names if item.value == value), None)
    return None if name is None else name[len("MEMORY_DEVICE_") :].lower().replace("_", " ")
