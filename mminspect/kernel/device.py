# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory of devices (ZONE_DEVICE): persistent memory, DAX, GPUs. It has struct pages, and none of it is online."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from drgn import FaultError, Object, Program

from mminspect.kernel.resources import READ_ERRORS
from mminspect.layout.sections import device_pagemaps
from mminspect.memmap.chunk import UNREADABLE_REASONS, Run
from mminspect.memmap.reader import CHUNK_PAGES, Memmap
from mminspect.memorymap import bitmap
from mminspect.memorymap.device import MAX_STRETCHES, DevicePages, Stretch
from mminspect.memorymap.layout import PAGEBLOCK_BITS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import MIGRATETYPE_MASK
from mminspect.memorymap.sections import Section, SectionEntry

DEVICE = "Device"
# Pages that are read in all: 1 TiB of 4 KiB pages, whose struct pages take 16 GiB.
MAX_PAGES = 1 << 28
# __PERCPU_REF_DEAD
PERCPU_REF_DEAD = 2
# The largest compound page of any kernel.
MAX_COMPOUND_ORDER = 22


class DeviceMemory(NamedTuple):
    """
    Pages of one ``struct dev_pagemap``.

    :ivar start: First pfn.
    :ivar end: Pfn behind the last.
    :ivar pagemap: Address of the ``struct dev_pagemap``.
    :ivar kind: Its ``type`` in words, such as ``fs dax``; ``None`` if unknown.
    :ivar pageblock_flags: Offset of the pageblock bitmap in ``struct mem_section_usage``; ``None`` without one.
    :ivar initialized: First pfn whose struct page ``memremap_pages()`` initializes.
    :ivar settled: Whether ``memremap_pages()`` is done with it, and nobody takes it away.
    :ivar compound: Pages of each of its compound pages; ``None`` if unknown.
    """

    start: int
    end: int
    pagemap: int
    kind: str | None
    pageblock_flags: int | None = None
    initialized: int = 0
    settled: bool = False
    compound: int | None = None

    def has(self, pfn: int) -> bool:
        """Tell whether a pfn is of this memory."""
        return self.start <= pfn < self.end

    def section(self, memory: MemoryMap, pfn: int) -> Section | None:
        """Get the section of a pfn, as far as it is of this memory; ``None`` if it has no memmap."""
        shift = memory.layout.pfn_section_shift
        if shift is None:
            return None
        nr = pfn >> shift
        return self.in_section(next((entry for entry in memory.mem_sections if entry.nr == nr), None), shift)

    def in_section(self, entry: SectionEntry | None, shift: int) -> Section | None:
        """
        Get the part of this memory that is in one section.

        :param shift: ``PFN_SECTION_SHIFT``.
        """
        if entry is None or not entry.mem_map:
            return None
        pages = max(self.start, entry.nr << shift), min(self.end, (entry.nr + 1) << shift)
        there = entry.usage + self.pageblock_flags if entry.usage and self.pageblock_flags is not None else 0
        return Section(entry.nr, (pages,), entry.mem_map, there, entry.flags)


def device_memory(prog: Program, memory: MemoryMap) -> list[DeviceMemory]:
    """Find the memory of devices; none where the target doesn't hold what tells of it."""
    layout = memory.layout
    if layout.flatmem:
        return []
    found = []
    try:
        usage = prog.type("struct mem_section_usage")
        offset = usage.member("pageblock_flags").offset if usage.has_member("pageblock_flags") else None
        last = 0
        for (start, end), pagemap in device_pagemaps(prog, layout.page_size.bit_length() - 1):
            address = pagemap.value_()
            # The first range of a pagemap may begin with its own memmap.
            begin = start if address == last else start + _altmap_offset(pagemap)
            last = address
            state = (begin, _is_settled(pagemap), _compound(pagemap))
            found.append(DeviceMemory(start, end, address, _kind(pagemap), offset, *state))
    except READ_ERRORS:
        return found
    return found


def _altmap_offset(pagemap: Object) -> int:
    """``vmem_altmap_offset()``, if there is an altmap (PGMAP_ALTMAP_VALID)."""
    offset = int(pagemap.altmap.reserve.value_() + pagemap.altmap.free.value_())
    return offset if pagemap.flags.value_() & 1 else 0


def _is_settled(pagemap: Object) -> bool:
    """
    Tell whether all ranges were initialized, and nobody takes them away.

    Since Linux kernel commit b7b3c01b1915 ("mm/memremap_pages: support multiple ranges per invocation") (in v5.10),
    memremap_pages() counts in nr_range those that are done. memunmap_pages() kills the reference first.
    """
    if not pagemap.prog_.type("struct dev_pagemap").has_member("nr_range"):
        return False
    # "ref" was a pointer once.
    return not pagemap.ref.percpu_count_ptr.value_() & PERCPU_REF_DEAD


def _compound(pagemap: Object) -> int | None:
    if not pagemap.prog_.type("struct dev_pagemap").has_member("vmemmap_shift"):
        return 1
    shift = pagemap.vmemmap_shift.value_()
    return 1 << shift if shift <= MAX_COMPOUND_ORDER else None


def device_pages(prog: Program, memory: MemoryMap, memmap: Memmap, found: Sequence[DeviceMemory]) -> list[DevicePages]:
    """Read the struct pages and pageblock bits of device memory that is settled."""
    reader = _Reader(prog, memory, memmap)
    return [reader.read(device) for device in found if device.settled and device.initialized < device.end]


class _Reader:
    """Reads device memory, up to :data:`MAX_PAGES` in all."""

    def __init__(self, prog: Program, memory: MemoryMap, memmap: Memmap) -> None:
        self._prog = prog
        self._memory = memory
        self._memmap = memmap
        self._left = MAX_PAGES
        self._zones = [zone for zone in memory.populated_zones if zone.name == DEVICE]
        self._entries = {entry.nr: entry for entry in memory.mem_sections}

    def read(self, device: DeviceMemory) -> DevicePages:
        """Read one of them."""
        layout = self._memory.layout
        start, end = device.initialized, min(device.end, device.initialized + self._left)
        self._left -= end - start
        examined = elsewhere = blocks = untyped = 0
        wrong: list[Stretch] = []
        other: list[Stretch] = []
        shift = layout.pfn_section_shift
        assert shift is not None
        for nr in range(start >> shift, (end - 1 >> shift) + 1):
            section = device.in_section(self._entries.get(nr), shift)
            low, high = max(start, nr << shift), min(end, (nr + 1) << shift)
            if section is None:
                continue
            for run in self._runs(low, high, section):
                examined += run.end - run.start
                if not self._is_right(run):
                    elsewhere += run.end - run.start
                    _join(wrong, Stretch(run.start, run.end, run.link))
            for pfn, kind in self._kinds(low, high, section):
                blocks += 1
                if kind != self._movable():
                    untyped += 1
                    _join(other, Stretch(pfn, pfn + layout.pageblock_nr_pages, kind))
        spanning = next((zone.node for zone in self._zones if zone.spans(start)), None)
        return DevicePages(
            start,
            end,
            spanning,
            device.kind,
            device.compound,
            examined,
            tuple(wrong),
            elsewhere,
            blocks,
            tuple(other),
            untyped,
            end < device.end,
        )

    def _runs(self, low: int, high: int, section: Section) -> Iterator[Run]:
        """Read struct pages, as far as the target holds them."""
        for start in range(low, high, CHUNK_PAGES):
            for chunk in self._memmap.read(start, min(start + CHUNK_PAGES, high), section):
                yield from (run for run in chunk.runs if run.state not in UNREADABLE_REASONS)

    def _is_right(self, run: Run) -> bool:
        node, index = self._memory.layout.node_zone(run.link)
        return any((z.node, z.index) == (node, index) and z.spans(run.start) for z in self._zones)

    def _movable(self) -> int:
        return self._memory.layout.migratetypes.index("MOVABLE")

    def _kinds(self, low: int, high: int, section: Section) -> Iterator[tuple[int, int]]:
        """Get the migratetypes of whole pageblocks: (first pfn, migratetype)."""
        layout = self._memory.layout
        if layout.why_unknown(PAGEBLOCK_BITS) or not section.bitmap or "MOVABLE" not in layout.migratetypes:
            return
        size = bitmap.in_words(layout, bitmap.section_usemap_size(layout))
        try:
            data = self._prog.read(section.bitmap, size)
        except FaultError:
            return
        kinds = bitmap.all_pageblock_bits(layout, data) & MIGRATETYPE_MASK
        nr_pages, first = layout.pageblock_nr_pages, low - low % (1 << (layout.pfn_section_shift or 0))
        for pfn in range(-(-low // nr_pages) * nr_pages, high - nr_pages + 1, nr_pages):
            yield pfn, int(kinds[(pfn - first) // nr_pages])


def _join(stretches: list[Stretch], more: Stretch) -> None:
    """Add to stretches, of which the first are kept."""
    if stretches and (stretches[-1].end, stretches[-1].value) == (more.start, more.value):
        stretches[-1] = stretches[-1]._replace(end=more.end)
    elif len(stretches) < MAX_STRETCHES:
        stretches.append(more)


def _kind(pagemap: Object) -> str | None:
    try:
        value = pagemap.type.value_()
        names = pagemap.prog_.type("enum memory_type").enumerators or ()
    except READ_ERRORS:
        return None
    name = next((item.name for item in names if item.value == value), None)
    return None if name is None else name[len("MEMORY_DEVICE_") :].lower().replace("_", " ")
