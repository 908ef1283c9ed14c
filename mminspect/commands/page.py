# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect page`` shows: everything known about a page, as plain data."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.linux.mm import (
    PageCompound,
    PageHead,
    PageTail,
    compound_head,
    compound_order,
)

from mminspect.commands import owner
from mminspect.consequences.attach import Judge, attach
from mminspect.errors import MminspectError
from mminspect.findings import Finding, sort_key
from mminspect.kernel.identify import virtual_to_pfn
from mminspect.kernel.resources import memblock_regions, resource_path, resources
from mminspect.layout.sections import subsection
from mminspect.memmap.chunk import INITIALIZED, UNINITIALIZED_KINDS, UNREADABLE_REASONS, Chunk
from mminspect.memmap.percpu import with_per_cpu_pages
from mminspect.memmap.reader import Memmap
from mminspect.memorymap import bitmap
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import page_zone
from mminspect.memorymap.percpu import PerCpuBlocks, per_cpu_blocks
from mminspect.memorymap.sections import Section
from mminspect.memorymap.structpages import StructPages
from mminspect.program.target import Target
from mminspect.rules.base import Identify, KeyCheck, MapCheck, PageCheck, TallyCheck
from mminspect.rules.registry import select_rules
from mminspect.typeinfo.symbols import CAPTURE_NOTE
from mminspect.walk.engine import Progress, Scan, check_map
from mminspect.walk.scan import helpful_jobs

# Pages of a range that are shown one by one.
MAX_PAGES = 4096
# Chunks on either side that are looked at to find out how far a finding reaches.
MAX_CHUNKS_AROUND = 64
_NUMBER = r"0[xX][0-9a-fA-F]+|[0-9]+"


def _number(text: str) -> int:
    return int(text, 16 if text[:2].lower() == "0x" else 10)


class PageInspector:
    """
    Looks at single pages.

    :param target: The kernel, with types.
    :param memory: Its memory map.
    :param memmap: Reads its struct pages.
    :param look: Says what lives at an address.
    """

    def __init__(self, target: Target, memory: MemoryMap, memmap: Memmap, look: Identify) -> None:
        self._target = target
        self._memory = memory
        self._memmap = memmap
        self._look = look
        self._judge = Judge(target, memory, memmap, look)
        self._free_lists: owner.FreeLists | None = None
        self._with_lists: MemoryMap | None = None
        self._blocks: PerCpuBlocks | None = None
        self._known_resources: list[tuple[int, int, str, int]] | None = None

    def parse(self, text: str) -> tuple[int, int, str]:
        """
        Find out which pages are meant.

        :param text: A pfn, a physical address, the address of a struct page, a kernel virtual address, or a range
            ``START-END`` (half-open) of two of a kind. The first of these kinds that fits is taken.
        :return: (first pfn, pfn behind the last, how it was understood).
        :raises MminspectError: if it is none of these.
        """
        match = re.fullmatch(rf"({_NUMBER})(?:-({_NUMBER}))?", text.strip())
        if match is None:
            raise MminspectError(
                f"{text!r}: neither a number nor a range START-END; give pfns or addresses, hexadecimal with 0x"
            )
        first = _number(match.group(1))
        # A range is half-open: its end can lie behind all memory, its last byte or page can't.
        last = first if match.group(2) is None else _number(match.group(2)) - 1
        if last < first:
            raise MminspectError(f"{text}: a range is START-END, END behind START")
        if self._memory.section(first) is not None and self._memory.section(last) is None:
            raise MminspectError(f"{text}: {first:#x} is a pfn of online memory, {last:#x} is not")
        self._refuse_offline(text, first)
        kinds: Sequence[tuple[str, Callable[[int], int | None]]] = (
            ("pfn", lambda value: value),
            ("struct page address", self._page_to_pfn),
            ("physical address", lambda value: value // self._memory.layout.page_size),
            ("virtual address", lambda value: virtual_to_pfn(self._target, self._memory, value)),
        )
        for kind, to_pfn in kinds:
            start, end = to_pfn(first), to_pfn(last)
            if start is None or end is None or self._memory.section(start) is None or self._memory.section(end) is None:
                continue
            if kind == "virtual address" and end - start != (last >> self._page_shift) - (first >> self._page_shift):
                raise MminspectError(f"{text}: these addresses are not next to each other in physical memory")
            if end - start >= MAX_PAGES:
                raise MminspectError(f"{text}: {end - start + 1} pages; {MAX_PAGES} can be shown at once")
            return start, end + 1, kind
        why = ""
        if self._target.core is not None and CAPTURE_NOTE in self._target.core.notes:
            why = "; a capture has no page tables for virtual addresses"
        raise MminspectError(f"{text}: no pfn of online memory, and no address that leads to one{why}")

    def _refuse_offline(self, text: str, pfn: int) -> None:
        """
        Refuse a pfn of memory that is there and not online. As an address it would be another page.

        :raises MminspectError: if it is one.
        """
        shift = self._memory.layout.pfn_section_shift
        if shift is None or self._memory.section(pfn) is not None:
            return
        entry = next((entry for entry in self._memory.mem_sections if entry.nr == pfn >> shift), None)
        if entry is not None:
            flags = ", ".join(entry.flags) or "no flags"
            raise MminspectError(
                f"{text}: pfn {pfn:#x} is not online: pfn_to_online_page() returns NULL. Section {entry.nr} has {flags}"
            )

    @property
    def _page_shift(self) -> int:
        return self._memory.layout.page_size.bit_length() - 1

    def _page_to_pfn(self, address: int) -> int | None:
        """Get the pfn of the struct page that an address lies in."""
        found = StructPages(self._memory).find(address)
        return None if found is None else found.pfn

    def inspect(self, start: int, end: int, progress: Callable[[int], Progress] | None = None) -> list[dict[str, Any]]:
        """
        Describe pages.

        :param progress: As in :func:`mminspect.walk.scan.scan_target`.
        :return: A dictionary per online page of ``[start, end)``.
        """
        findings = self._findings(start, end, progress)
        return [self._page(pfn, findings) for pfn in range(start, end) if self._memory.section(pfn) is not None]

    def _block(self, pfn: int, section: Section) -> Chunk:
        """Read the pageblock of a pfn, as far as it is online."""
        nr_pages = self._memory.layout.pageblock_nr_pages
        for low, high in section.ranges:
            if low <= pfn < high:
                block = pfn & -nr_pages
                return self._memmap.chunk(max(block, low), min(block + nr_pages, high), section)
        raise MminspectError(f"pfn {pfn:#x} is not online")

    @property
    def _lists(self) -> MemoryMap:
        """The memory map with the per-CPU lists."""
        if self._with_lists is None:
            self._with_lists = with_per_cpu_pages(self._target, self._memory)
        return self._with_lists

    def _findings(self, start: int, end: int, progress: Callable[[int], Progress] | None) -> list[Finding]:
        """Find what a scan finds in the pages. In the running kernel, nothing is found that takes a whole walk."""
        found = self._findings_around(start, end)
        if self._target.kind == "live":
            found += check_map(self._memory, select_rules())
        else:
            total = sum(high - low for low, high, _ in self._memmap.ranges())
            jobs = helpful_jobs(self._target, total)
            advance = progress(total) if progress is not None else None
            kinds = (MapCheck, KeyCheck, TallyCheck)
            scan = Scan(self._lists, self._memmap, select_rules(), self._look, kinds=kinds)
            with contextlib.closing(scan.walk(advance, jobs)) as walk:
                found += walk
        found = [finding for finding in found if any(finding.covers(pfn) for pfn in range(start, end))]
        return list(attach(sorted(found, key=sort_key), self._judge))

    def _findings_around(self, start: int, end: int) -> list[Finding]:
        """
        Check the pages of the chunks that the pages are in, as a scan cuts them.

        More chunks are looked at as long as a finding of the pages reaches their edge.
        """
        parts = list(self._memmap.ranges())
        near = [index for index, (low, high, _) in enumerate(parts) if low < end and start < high]
        first, last = near[0], near[-1]
        for _ in range(MAX_CHUNKS_AROUND):
            scan = Scan(self._memory, self._memmap, select_rules(), self._look, kinds=(PageCheck,))
            found = scan.findings_in(self._memmap.chunk(*part) for part in parts[first : last + 1])
            found = [finding for finding in found if finding.start_pfn < end and start < finding.end_pfn]
            before = first > 0 and any(f.start_pfn == parts[first][0] == parts[first - 1][1] for f in found)
            after = last + 1 < len(parts) and any(f.end_pfn == parts[last][1] == parts[last + 1][0] for f in found)
            if not before and not after:
                break
            first, last = first - before, last + after
        return found

    def _page(self, pfn: int, findings: list[Finding]) -> dict[str, Any]:
        memory = self._memory
        layout = memory.layout
        section = self._memory.section(pfn)
        assert section is not None
        chunk = self._block(pfn, section)
        index = pfn - chunk.start_pfn
        state, link = int(chunk.state[index]), int(chunk.link[index])
        address = section.mem_map + pfn * layout.page.size
        info: dict[str, Any] = {
            "pfn": pfn,
            "physical_address": pfn * layout.page_size,
            "struct_page": address & ((1 << layout.word_bits) - 1),
            "section": None if layout.flatmem else section.nr,
            "section_flags": list(section.flags),
            "subsection": None if layout.flatmem else subsection(self._target.prog, pfn),
            "spanned_by": [[zone.node, zone.index, zone.name] for zone in memory.zones_spanning(pfn, pfn + 1)],
            "pageblock": [chunk.start_pfn & -layout.pageblock_nr_pages, layout.pageblock_order],
            "neighbours": self._neighbours(pfn, chunk),
            "resources": resource_path(self._resources(), pfn * layout.page_size),
            "memblock": memblock_regions(self._target.prog, pfn * layout.page_size),
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
        info.update(self._bitmap(pfn, link, section))
        info.update(self._struct_page(pfn, section, state))
        info["consequences"] = [item.as_dict() for item in self._judge.outcomes(pfn)]
        return {**info, **found}

    def _resources(self) -> list[tuple[int, int, str, int]]:
        if self._known_resources is None:
            self._known_resources = resources(self._target.prog)
        return self._known_resources

    def _neighbours(self, pfn: int, chunk: Chunk) -> list[dict[str, Any]]:
        """
        Describe both sides of every boundary around a page.

        Boundaries are the page itself, the run of like entries that it is in, its pageblock, its section, and the zones
        that span it.
        """
        layout = self._memory.layout
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
        boundaries += [(str(zone), zone.start_pfn, zone.end_pfn) for zone in self._memory.zones_spanning(pfn, pfn + 1)]
        return [
            {"boundary": f"{name} {side}", "pfn": at, "before": self._brief(at - 1), "after": self._brief(at)}
            for name, start, end in boundaries
            for side, at in (("start", start), ("end", end))
        ]

    def _brief(self, pfn: int) -> dict[str, Any] | None:
        """Describe a page in short. ``None`` if it isn't online."""
        section = self._memory.section(pfn) if pfn >= 0 else None
        if section is None:
            return None
        chunk = self._memmap.chunk(pfn, pfn + 1, section)
        state = int(chunk.state[0])
        if state in UNREADABLE_REASONS:
            return {"pfn": pfn, "state": "unreadable"}
        kind = "initialized" if state == INITIALIZED else UNINITIALIZED_KINDS[state]
        reserved = bool(chunk.reserved(pfn, pfn + 1)[0])
        return {"pfn": pfn, "state": kind, "link": self._memory.link_name(int(chunk.link[0])), "reserved": reserved}

    def _bitmap(self, pfn: int, link: int, section: Section) -> dict[str, Any]:
        """Get the pageblock's bits, through the page's link with FLATMEM."""
        memory, layout = self._memory, self._memory.layout
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
            word = self._target.prog.read_word(address)
        except FaultError:
            return {**result, "migratetype": None, "migratetype_why": "the target doesn't hold the bitmap"}
        bits = bitmap.pageblock_bits(layout, word, index)
        result["bitmap_value"] = word
        number = bits & 7
        names = layout.migratetypes
        result["migratetype"] = names[number] if number < len(names) else f"{number} (out of range)"
        result["pageblock_skip"] = bool(bits & 8)
        if layout.bits_per_pageblock == 8:
            result["pageblock_isolate"] = bool(bits & 16)
        return result

    def read_entry(self, pfn: int, section: Section) -> owner.Entry:
        """
        Read a struct page.

        :raises drgn.FaultError: if the target doesn't hold it.
        """
        layout = self._memory.layout
        address = section.mem_map + pfn * layout.page.size
        page = Object(self._target.prog, "struct page *", address & ((1 << layout.word_bits) - 1))
        return owner.read_entry(self._target, layout, page, self._memmap.entry(pfn, section))

    def _head(self, pfn: int, entry: owner.Entry, section: Section) -> tuple[dict[str, Any], owner.Entry | None]:
        """
        Find the compound page that a page is in.

        :return: (what is shown of it: nothing if there is none; the entry of its head, ``None`` if it can't be read).
        """
        layout = self._memory.layout
        try:
            if not PageCompound(entry.page):
                return {}, None
            head = compound_head(entry.page)
            head_pfn = (head.value_() - section.mem_map) % (1 << layout.word_bits) // layout.page.size
            part = "head" if PageHead(entry.page) else "tail" if PageTail(entry.page) else "unknown"
            compound = {"part": part, "head_pfn": head_pfn, "order": compound_order(head).value_()}
            there = self._memory.section(head_pfn)
            return {"compound": compound}, self.read_entry(head_pfn, there) if there is not None else None
        except (LookupError, FaultError, AttributeError):
            # Garbage in the entry leads the helpers to memory that isn't there.
            return {"compound": {"part": "unknown"}}, None

    def _struct_page(self, pfn: int, section: Section, state: int) -> dict[str, Any]:
        """Decode a struct page."""
        layout = self._memory.layout
        entry = self.read_entry(pfn, section)
        compound, head = self._head(pfn, entry, section)
        tail = compound.get("compound", {}).get("part") == "tail"
        whole = head if tail else entry
        mapcount = entry.mapcount + 1 if entry.kind is None and state == INITIALIZED else None
        anon = whole is not None and whole.anon
        result: dict[str, Any] = {
            "flags": "|".join(owner.flag_names(self._target.prog, entry.flags, entry.kind, anon, tail)),
            "refcount": entry.refcount,
            "mapcount": mapcount,
            "page_type": entry.kind,
            "words": [f"{word:#0{layout.word_bits // 4 + 2}x}" for word in entry.words],
            "slab": whole.slab if whole is not None else None,
            **compound,
            "buddy": self._buddy(pfn, section),
            "per_cpu": self._per_cpu(pfn),
        }
        result["owner"] = self._owner(entry, head, state, result)
        return result

    def _buddy(self, pfn: int, section: Section) -> dict[str, Any] | None:
        """Find the free block that a page is in, and the free list that it is really on. ``None`` if there is none."""
        for order in range(self._memory.layout.max_order + 1):
            head = pfn & -(1 << order)
            entry = self._judge.page(head) if self._memory.section(head) == section else None
            if entry is None or not entry.buddy:
                continue
            address = section.mem_map + head * self._memory.layout.page.size
            address &= (1 << self._memory.layout.word_bits) - 1
            try:
                block_order = Object(self._target.prog, "struct page *", address).private.value_()
                if head + (1 << min(block_order, 63)) <= pfn:
                    continue
                if self._free_lists is None:
                    self._free_lists = owner.FreeLists(self._target.prog, self._memory)
                on = self._free_lists.find(address)
            except (FaultError, LookupError, AttributeError) as e:
                return {"head_pfn": head, "order": None, "list": {"broken": str(e)}}
            return {"head_pfn": head, "order": block_order, "list": on}
        return None

    def _per_cpu(self, pfn: int) -> dict[str, Any] | None:
        """Find the per-CPU list that a page is on, or the block there that it is in. ``None`` if there is none."""
        if self._blocks is None:
            self._blocks = per_cpu_blocks(self._lists.per_cpu)
        blocks = self._blocks
        at = int(np.searchsorted(blocks.start, np.uint64(pfn), "right")) - 1
        if at < 0 or pfn >= int(blocks.end[at]):
            return None
        pages, item = blocks.lists[int(blocks.number[at])]
        return {
            "cpu": pages.cpu,
            "zone": str(self._memory.zone(pages.node, pages.zone)),
            "head_pfn": int(blocks.start[at]),
            "order": item.order,
            "migratetype": item.migratetype,
        }

    def _owner(self, entry: owner.Entry, head: owner.Entry | None, state: int, known: dict[str, Any]) -> str:
        """Say in words who has a page."""
        if known["buddy"] is not None:
            return f"the buddy allocator: a free block of order {known['buddy']['order']}"
        if known["per_cpu"] is not None:
            return f"the page allocator: free, on a list of CPU {known['per_cpu']['cpu']}"
        if not any(entry.words):
            return "nobody: the entry is empty"
        if state != INITIALIZED:
            return "unknown: the entry was not initialised"
        compound = known.get("compound", {})
        if compound.get("part") == "tail":
            have = owner.holder(self._target, head) if head is not None else None
            return f"compound page at {compound['head_pfn']:#x}: {have or 'its owner is unknown'}"
        if compound.get("part") == "unknown":
            return "unknown: the compound page that it is in can't be told"
        listed = "" if self._lists.per_cpu else "on a per-CPU list, or "
        return (
            owner.holder(self._target, entry)
            or f"unknown: no references; possibly {listed}the tail of an allocation that is not compound"
        )
