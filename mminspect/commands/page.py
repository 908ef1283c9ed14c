# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect page`` shows: everything known about a page, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from drgn import FaultError

from mminspect.commands import owner, page_findings
from mminspect.commands.page_argument import Meant
from mminspect.consequences.attach import Outcomes
from mminspect.errors import MminspectError
from mminspect.findings import Finding
from mminspect.kernel.kernel import Kernel
from mminspect.kernel.resources import memblock_regions, resource_path
from mminspect.layout.sections import subsection
from mminspect.memmap.chunk import INITIALIZED, UNINITIALIZED_KINDS, UNREADABLE_REASONS, Chunk
from mminspect.memorymap import bitmap
from mminspect.memorymap.mmzone import MIGRATETYPE_MASK, PB_COMPACT_SKIP, PB_MIGRATE_ISOLATE, page_zone, pfn_to_page
from mminspect.memorymap.sections import Section
from mminspect.walk.limits import Progress


def pages(kernel: Kernel, meant: Meant, progress: Callable[[int], Progress] | None = None) -> dict[str, Any]:
    """
    Describe the pages that are meant.

    :param progress: As in :func:`mminspect.walk.scan.scan`.
    :return: ``start_pfn``, ``end_pfn``, ``understood_as``, and ``pages``: what is known of each.
    """
    return meant.as_dict(describe(kernel, meant.start, meant.end, progress))


def describe(
    kernel: Kernel, start: int, end: int, progress: Callable[[int], Progress] | None = None
) -> list[dict[str, Any]]:
    """Describe each page of ``[start, end)`` that is online or of a device; see :func:`pages`."""
    outcomes = Outcomes(kernel)
    is_online = any(kernel.memory.section(pfn) is not None for pfn in range(start, end))
    findings = page_findings.find(kernel, outcomes, start, end, progress) if is_online else []
    if any(device.start < end and start < device.end for device in kernel.device_memory if not is_online):
        findings = page_findings.find_in_devices(kernel, outcomes, start, end)
    described = []
    around = _Surroundings(kernel)
    for pfn in range(start, end):
        section = kernel.memory.section(pfn)
        if section is not None:
            described.append(_page(kernel, outcomes, around, pfn, section, findings))
            continue
        section = kernel.section(pfn)
        if section is not None:
            described.append(_device_page(kernel, pfn, section, findings))
    return described


def _device_page(kernel: Kernel, pfn: int, section: Section, findings: Sequence[Finding]) -> dict[str, Any]:
    """Describe a page of ZONE_DEVICE. No walk of a zone comes to it."""
    memory, layout = kernel.memory, kernel.memory.layout
    device = next(device for device in kernel.device_memory if device.has(pfn))
    info: dict[str, Any] = {
        "pfn": pfn,
        "physical_address": pfn * layout.page_size,
        "struct_page": pfn_to_page(layout, section, pfn),
        "section": section.nr,
        "section_flags": list(section.flags),
        "subsection": subsection(kernel.prog, pfn),
        "spanned_by": [[zone.node, zone.index, zone.name] for zone in memory.zones_spanning(pfn, pfn + 1)],
        "pageblock": [pfn & -layout.pageblock_nr_pages, layout.pageblock_order],
        "device": {"pagemap": device.pagemap, "start_pfn": device.start, "end_pfn": device.end, "type": device.kind},
        "neighbours": [],
        "resources": resource_path(kernel.resources, pfn * layout.page_size),
        "memblock": memblock_regions(kernel.prog, pfn * layout.page_size),
        "findings": [finding.as_dict() for finding in findings if finding.covers(pfn)],
        "zone_findings": [],
    }
    try:
        decoded = owner.describe_device(kernel, pfn, section, device)
    except FaultError:
        return {**info, "state": "device memory; this target doesn't hold its struct page"}
    link = decoded.pop("link")
    node, zone_id = layout.node_zone(link)
    zone = memory.zone(node, zone_id)
    info["state"] = "device memory, not online: pfn_to_online_page() returns NULL"
    info["link"] = {"node": node, "zone_id": zone_id, "zone": zone.name if zone else None}
    return {**info, **_pageblock_bits(kernel, pfn, link, section), **decoded}


def _page(
    kernel: Kernel,
    outcomes: Outcomes,
    around: _Surroundings,
    pfn: int,
    section: Section,
    findings: Sequence[Finding],
) -> dict[str, Any]:
    memory, layout = kernel.memory, kernel.memory.layout
    chunk = around.block(pfn, section)
    index = pfn - chunk.start_pfn
    state, link = int(chunk.state[index]), int(chunk.link[index])
    info: dict[str, Any] = {
        "pfn": pfn,
        "physical_address": pfn * layout.page_size,
        "struct_page": pfn_to_page(layout, section, pfn),
        "section": None if layout.flatmem else section.nr,
        "section_flags": list(section.flags),
        "subsection": None if layout.flatmem else subsection(kernel.prog, pfn),
        "spanned_by": [[zone.node, zone.index, zone.name] for zone in memory.zones_spanning(pfn, pfn + 1)],
        "pageblock": [chunk.start_pfn & -layout.pageblock_nr_pages, layout.pageblock_order],
        "neighbours": around.neighbors(pfn, chunk),
        "resources": resource_path(kernel.resources, pfn * layout.page_size),
        "memblock": memblock_regions(kernel.prog, pfn * layout.page_size),
    }
    covering = [finding for finding in findings if finding.covers(pfn)]
    found = {
        "findings": [finding.as_dict() for finding in covering if not finding.of_zone],
        "zone_findings": [finding.as_dict() for finding in covering if finding.of_zone],
    }
    if state in UNREADABLE_REASONS:
        info["state"] = f"unreadable: {UNREADABLE_REASONS[state]}"
        return {**info, **found}
    node, zone_id = layout.node_zone(link)
    zone = memory.zone(node, zone_id)
    info["state"] = "initialized" if state == INITIALIZED else UNINITIALIZED_KINDS[state]
    info["link"] = {"node": node, "zone_id": zone_id, "zone": zone.name if zone else None}
    info.update(_pageblock_bits(kernel, pfn, link, section))
    info.update(owner.describe(kernel, outcomes, pfn, section, state))
    info["consequences"] = [item.as_dict() for item in outcomes.of(pfn)]
    return {**info, **found}


class _Surroundings:
    """Pages around those that are described. Each is read once, however many it is near to."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._block: Chunk | None = None
        self._briefs: dict[int, dict[str, Any] | None] = {}

    def block(self, pfn: int, section: Section) -> Chunk:
        """Read the pageblock of a pfn, as far as it is online."""
        nr_pages = self._kernel.memory.layout.pageblock_nr_pages
        if self._block is not None and self._block.start_pfn <= pfn < self._block.end_pfn:
            return self._block
        for low, high in section.ranges:
            if low <= pfn < high:
                start = pfn & -nr_pages
                self._block = self._kernel.memmap.chunk(max(start, low), min(start + nr_pages, high), section)
                return self._block
        raise MminspectError(f"pfn {pfn:#x} is not online")

    def neighbors(self, pfn: int, chunk: Chunk) -> list[dict[str, Any]]:
        """
        Describe both sides of every boundary around a page.

        Boundaries are the page itself, the run of like entries that it is in, its pageblock, its section, and the zones
        that span it.

        :param chunk: The page's pageblock.
        """
        layout = self._kernel.memory.layout
        block = pfn & -layout.pageblock_nr_pages
        run = next(run for run in chunk.runs if run.start <= pfn < run.end)
        boundaries = [
            ("page", pfn, pfn + 1),
            ("run", run.start, run.end),
            ("pageblock", block, block + layout.pageblock_nr_pages),
        ]
        if layout.pfn_section_shift is not None:
            start = pfn >> layout.pfn_section_shift << layout.pfn_section_shift
            boundaries.append(("section", start, start + (1 << layout.pfn_section_shift)))
        zones = self._kernel.memory.zones_spanning(pfn, pfn + 1)
        boundaries += [(str(zone), zone.start_pfn, zone.end_pfn) for zone in zones]
        return [
            {"boundary": f"{name} {side}", "pfn": at, "before": self._brief(at - 1), "after": self._brief(at)}
            for name, start, end in boundaries
            for side, at in (("start", start), ("end", end))
        ]

    def _brief(self, pfn: int) -> dict[str, Any] | None:
        if pfn not in self._briefs:
            self._briefs[pfn] = _brief(self._kernel, pfn)
        return self._briefs[pfn]


def _brief(kernel: Kernel, pfn: int) -> dict[str, Any] | None:
    """Describe a page in short. ``None`` if it isn't online."""
    section = kernel.memory.section(pfn) if pfn >= 0 else None
    if section is None:
        return None
    chunk = kernel.memmap.chunk(pfn, pfn + 1, section)
    state = int(chunk.state[0])
    if state in UNREADABLE_REASONS:
        return {"pfn": pfn, "state": "unreadable"}
    kind = "initialized" if state == INITIALIZED else UNINITIALIZED_KINDS[state]
    reserved = bool(chunk.reserved(pfn, pfn + 1)[0])
    return {"pfn": pfn, "state": kind, "link": kernel.memory.link_name(int(chunk.link[0])), "reserved": reserved}


def _pageblock_bits(kernel: Kernel, pfn: int, link: int, section: Section) -> dict[str, Any]:
    """Get the pageblock's bits, through the page's link with FLATMEM."""
    memory, layout = kernel.memory, kernel.memory.layout
    if layout.flatmem:
        zone = page_zone(memory, link)
        if zone is None or not zone.bitmap:
            return {"bitmap": None}
        base, start, limit = zone.bitmap, zone.start_pfn, bitmap.usemap_size(layout, zone)
    else:
        if not section.bitmap:
            return {"bitmap": None}
        base, start, limit = section.bitmap, 0, bitmap.section_usemap_size(layout)
    index = bitmap.pfn_to_bitidx(layout, start, pfn)
    address = bitmap.bitmap_word_address(layout, base, index)
    result: dict[str, Any] = {"bitmap": base, "bitmap_index": index, "bitmap_limit": limit, "bitmap_word": address}
    if index >= limit:
        return {**result, "migratetype": None, "migratetype_why": "the index is outside of the bitmap"}
    try:
        word = kernel.prog.read_word(address)
    except FaultError:
        return {**result, "migratetype": None, "migratetype_why": "the target doesn't hold the bitmap"}
    bits = bitmap.pageblock_bits(layout, word, index)
    result["bitmap_value"] = word
    number = bits & MIGRATETYPE_MASK
    names = layout.migratetypes
    result["migratetype"] = names[number] if number < len(names) else f"{number} (out of range)"
    result["pageblock_skip"] = bool(bits & PB_COMPACT_SKIP)
    if layout.bits_per_pageblock == 8:
        result["pageblock_isolate"] = bool(bits & PB_MIGRATE_ISOLATE)
    return result
