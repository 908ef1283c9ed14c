# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a pfn lies: by what the boot said of the machine's memory, and by the memory map of a vmcore."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mminspect.commands.triage.boot import EFI, FIRMWARE, IOMEM, NODE, Boot, Range, usual_page_size
from mminspect.kernel.resources import Resource, resource_path
from mminspect.memorymap.map import MemoryMap

# Bytes of a pageblock where nothing says otherwise: a huge page of 2 MiB.
USUAL_PAGEBLOCK = 2 << 20
MAX_CUTS = 8
# __VMEMMAP_BASE_L4 and __VMEMMAP_BASE_L5 of x86-64, to their ends, and the size of a struct page there.
_VMEMMAP = ((0xFFFFEA0000000000, 0xFFFFEB0000000000), (0xFFD4000000000000, 0xFFD6000000000000))
_STRUCT_PAGE = 64
_RAM = ("usable", "System RAM", "memory", "Conventional Memory", "Conventional")


_RAM_WORDS = {True: "RAM", False: "a hole: no RAM there", None: ""}


class Place(NamedTuple):
    """
    Where a pfn lies.

    :ivar zone: By the limits of zones; ``None`` if it is in none, or they aren't known. ``node`` likewise.
    :ivar ram: Whether there is memory; ``None`` if nothing tells.
    :ivar ranges: All that it lies in.
    :ivar partly: Whether there is memory in a part of the page, which kernels don't use.
    :ivar cuts: What begins or ends inside of its pageblock.
    """

    pfn: int
    zone: str | None
    node: int | None
    ram: bool | None
    ranges: tuple[Range, ...]
    cuts: tuple[str, ...]
    partly: bool = False

    def __str__(self) -> str:
        where = ", ".join(
            part
            for part in (
                f"zone {self.zone}" if self.zone else "",
                f"node {self.node}" if self.node is not None else "",
                "a hole: only a part of the page is RAM" if self.partly else _RAM_WORDS[self.ram],
                *(f"{found.source}: {found.what}" for found in self.ranges if found.source not in (NODE,)),
            )
            if part
        )
        text = f"pfn {self.pfn:#x} is in {where}" if where else f"pfn {self.pfn:#x}: the log doesn't tell where it lies"
        return text + "".join(f"; {cut}" for cut in self.cuts)


def place_of(boot: Boot, pfn: int, pageblock: int = USUAL_PAGEBLOCK) -> Place:
    """
    Return where a pfn lies.

    :param pageblock: Bytes of a pageblock.
    """
    size = boot.page_size or usual_page_size(boot.machine)
    address = pfn * size
    inside = tuple(found for found in boot.ranges if found.start <= address < found.end)
    zone = next((zone.name for zone in boot.zones if zone.start <= address < zone.end), None)
    early = [found for found in boot.ranges if found.source == NODE]
    node = next((found.node for found in inside if found.source == NODE), None)
    if node is None:
        spans = [found.node for found in boot.nodes if found.start <= address < found.end]
        node = spans[0] if len(spans) == 1 else None
    movable = dict(boot.movable).get(node) if node is not None else None
    if movable is not None and address >= movable:
        zone = "Movable"
    ram: bool | None = None
    if early:
        ram = any(found.source == NODE for found in inside)
    else:
        known = [found for found in boot.ranges if found.source in (FIRMWARE, EFI, IOMEM)]
        if known:
            ram = any(found.what in _RAM for found in inside if found.source in (FIRMWARE, EFI, IOMEM))
    partly = ram is False and any(
        found.what in _RAM and found.start < address + size and address < found.end
        for found in boot.ranges
        if found.source in (FIRMWARE, EFI, IOMEM) and not found.start <= address < address + size <= found.end
    )
    cuts = tuple(_cuts(boot, address, max(pageblock, size), size))
    return Place(pfn, zone, node, ram, _shown(inside), cuts, partly)


def pages_at(boot: Boot, machine: str | None, addresses: Iterable[int]) -> dict[int, int]:
    """
    Return the pfns whose struct pages some addresses are in, where the kernel has them at a place that never changes.

    :return: The first such address of each.
    """
    found: dict[int, int] = {}
    if boot.nokaslr and machine == "x86_64":
        for address in addresses:
            for base, end in _VMEMMAP:
                if base <= address < end:
                    found.setdefault((address - base) // _STRUCT_PAGE, address)
    return found


_LINK = re.compile(r"(?:\(|\|)node=(\d{1,4})\|zone=(\d)(?:\||\))")


class Link(NamedTuple):
    """The zone and node that a page's flags name; without names of zones, the zone is its id."""

    zone: str | int
    node: int

    def __str__(self) -> str:
        zone = f"zone {self.zone}" if isinstance(self.zone, str) else f"zone id {self.zone}"
        return f"{zone}, node {self.node}"


def link_of(boot: Boot, texts: Iterable[str]) -> Link | None:
    """
    Return which node and zone the flags of a page name, as the kernel printed them.

    :param texts: The lines of a report; those of the first page that was dumped count.
    """
    match = next(filter(None, map(_LINK.search, texts)), None)
    if match is None:
        return None
    names = [name for name in boot.zone_names if name not in ("Movable", "Device")]
    names += ["Movable", "Device"]
    number = int(match.group(2))
    zone = names[number] if boot.zone_names and number < len(names) else number
    return Link(zone, int(match.group(1)))


def _shown(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    seen: dict[tuple[str, str], Range] = {}
    for found in ranges:
        seen.setdefault((found.source, found.what), found)
    return tuple(seen.values())


def _cuts(boot: Boot, address: int, pageblock: int, size: int) -> list[str]:
    """List what begins or ends inside of a pageblock."""
    first = address - address % pageblock
    cuts: dict[tuple[int, str], str] = {}
    edges = [(zone.start, zone.end, f"zone {zone.name}") for zone in boot.zones]
    edges += [(found.start, found.end, f"node {found.node}") for found in boot.nodes]
    edges += [
        (
            found.start,
            found.end,
            f"RAM of node {found.node}" if found.source == NODE else f"{found.source} {found.what}",
        )
        for found in boot.ranges
        if found.source in (NODE, FIRMWARE, EFI, IOMEM) or found.source.startswith("memblock")
    ]
    for start, end, what in edges:
        for edge, verb in ((start, "begins"), (end, "ends")):
            if first < edge < first + pageblock:
                cuts.setdefault((edge, what + verb), f"{what} {verb} inside of its pageblock, at pfn {edge // size:#x}")
    return [cuts[key] for key in sorted(cuts)][:MAX_CUTS]


def place_in(memory: MemoryMap, resources: Sequence[Resource], pfn: int) -> str:
    """
    Say where a pfn lies in a memory map: in which zones, whether it is online, and what cuts its pageblock.

    :param resources: The kernel's ``/proc/iomem``; none if it can't be read.
    """
    zones = [str(zone) for zone in memory.zones_spanning(pfn, pfn + 1)]
    state = "online" if memory.section(pfn) else "not online: no struct page that counts"
    block = pfn - pfn % memory.layout.pageblock_nr_pages
    end = block + memory.layout.pageblock_nr_pages
    edges = [(zone.start_pfn, zone.end_pfn, str(zone)) for zone in memory.zones_spanning(block, end)]
    edges += [(first, last, "online memory") for first, last in memory.online_ranges() if first < end and block < last]
    cuts = sorted(
        (edge, f"{what} {verb} inside of its pageblock, at pfn {edge:#x}")
        for first, last, what in edges
        for edge, verb in ((first, "begins"), (last, "ends"))
        if block < edge < end
    )
    parts = ["in " + ", ".join(zones) if zones else "in no zone", state]
    if resources:
        names = resource_path(resources, pfn * memory.layout.page_size)
        parts.append(f"/proc/iomem: {' / '.join(names) or 'nothing there'}")
    return "; ".join([", ".join(parts), *dict.fromkeys(text for _, text in cuts[:MAX_CUTS])])
