# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect page`` shows: everything known about a page, as plain data."""

import re
from dataclasses import asdict
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.linux.mm import (
    PageCompound,
    PageHead,
    PageSlab,
    PageTail,
    compound_head,
    compound_order,
    decode_page_flags,
)

from mminspect.analyzer import Scan
from mminspect.consequences import Entry, consequences
from mminspect.errors import MminspectError
from mminspect.findings import Finding
from mminspect.layout import bitmap
from mminspect.layout.records import (
    INITIALIZED,
    UNINITIALIZED_KINDS,
    UNREADABLE_REASONS,
    Chunk,
    MemoryMap,
    Section,
)
from mminspect.memmap import Memmap
from mminspect.rules import WhatIs, select_rules
from mminspect.target import Target
from mminspect.whatis import virtual_to_pfn

# Pages of a range that are shown one by one.
MAX_PAGES = 4096

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

    def __init__(self, target: Target, memory: MemoryMap, memmap: Memmap, look: WhatIs) -> None:
        self._target = target
        self._memory = memory
        self._memmap = memmap
        self._look = look

    def parse(self, text: str) -> Tuple[int, int, str]:
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
        if self.section(first) is not None and self.section(last) is None:
            raise MminspectError(f"{text}: {first:#x} is a pfn of online memory, {last:#x} is not")
        kinds: Sequence[Tuple[str, Callable[[int], Optional[int]]]] = (
            ("pfn", lambda value: value),
            ("struct page address", self._page_to_pfn),
            ("physical address", lambda value: value // self._memory.layout.page_size),
            ("virtual address", lambda value: virtual_to_pfn(self._target, self._memory, value)),
        )
        for kind, to_pfn in kinds:
            start, end = to_pfn(first), to_pfn(last)
            if start is None or end is None or self.section(start) is None or self.section(end) is None:
                continue
            if kind == "virtual address" and end - start != (last >> self._page_shift) - (first >> self._page_shift):
                raise MminspectError(f"{text}: these addresses are not next to each other in physical memory")
            if end - start >= MAX_PAGES:
                raise MminspectError(f"{text}: {end - start + 1} pages; {MAX_PAGES} can be shown at once")
            return start, end + 1, kind
        raise MminspectError(f"{text}: no pfn of online memory, and no address that leads to one")

    @property
    def _page_shift(self) -> int:
        return self._memory.layout.page_size.bit_length() - 1

    def _page_to_pfn(self, address: int) -> Optional[int]:
        """Get the pfn of the struct page that an address lies in."""
        size = self._memory.layout.page_struct_size
        for section in self._memory.sections:
            for start, end in section.ranges:
                if section.mem_map + start * size <= address < section.mem_map + end * size:
                    return (address - section.mem_map) // size
        return None

    def section(self, pfn: int) -> Optional[Section]:
        """Get the section of an online pfn, or ``None``."""
        for section in self._memory.sections:
            if any(start <= pfn < end for start, end in section.ranges):
                return section
        return None

    def inspect(self, start: int, end: int) -> List[Dict[str, Any]]:
        """
        Describe pages.

        :return: A dictionary per online page of ``[start, end)``.
        """
        findings = self._findings(start, end)
        return [self._page(pfn, findings) for pfn in range(start, end) if self.section(pfn) is not None]

    def _block(self, pfn: int, section: Section) -> Chunk:
        """Read the pageblock of a pfn, as far as it is online."""
        nr_pages = self._memory.layout.pageblock_nr_pages
        for low, high in section.ranges:
            if low <= pfn < high:
                block = pfn & -nr_pages
                return self._memmap.chunk(max(block, low), min(block + nr_pages, high), section)
        raise MminspectError(f"pfn {pfn:#x} is not online")

    def _findings(self, start: int, end: int) -> List[Finding]:
        """Apply the rules that need no more than the pageblocks of the pages."""
        rules = [rule for rule in select_rules() if rule.describe_all is None]
        scan = Scan(self._memory, self._memmap, rules, self._look)
        nr_pages = self._memory.layout.pageblock_nr_pages
        chunks = []
        position = start
        while position < end:
            section = self.section(position)
            if section is not None:
                chunks.append(self._block(position, section))
            position = (position & -nr_pages) + nr_pages
        return scan.findings_in(chunks)

    def _entry(self, chunk: Chunk, pfn: int) -> Entry:
        index = min(max(pfn, chunk.start_pfn), chunk.end_pfn - 1) - chunk.start_pfn
        reserved = bool(int(chunk.flags[index]) >> self._memory.layout.pg_reserved & 1)
        return Entry(chunk.start_pfn + index, int(chunk.link[index]), int(chunk.state[index]), reserved)

    def _page(self, pfn: int, findings: List[Finding]) -> Dict[str, Any]:
        memory = self._memory
        layout = memory.layout
        section = self.section(pfn)
        assert section is not None
        chunk = self._block(pfn, section)
        entry = self._entry(chunk, pfn)
        spanning = memory.zones_spanning(pfn, pfn + 1)
        address = section.mem_map + pfn * layout.page_struct_size
        info: Dict[str, Any] = {
            "pfn": pfn,
            "physical_address": pfn * layout.page_size,
            "struct_page": address & ((1 << layout.word_bits) - 1),
            "section": None if layout.flatmem else section.nr,
            "section_flags": list(section.flags),
            "spanned_by": [[zone.node, zone.index, zone.name] for zone in spanning],
            "pageblock": [chunk.start_pfn & -layout.pageblock_nr_pages, layout.pageblock_order],
        }
        rules = [f for f in findings if f.start_pfn <= pfn < f.end_pfn]
        if entry.state in UNREADABLE_REASONS:
            info["state"] = f"unreadable: {UNREADABLE_REASONS[entry.state]}"
            return {**info, "findings": [asdict(finding) for finding in rules]}
        node, index = layout.node_zone(entry.link)
        zone = memory.zone(node, index)
        info["state"] = "initialized" if entry.state == INITIALIZED else UNINITIALIZED_KINDS[entry.state]
        info["link"] = {"node": node, "zone_id": index, "zone": zone.name if zone else None}
        info.update(self._bitmap(pfn, entry, section))
        info.update(self._struct_page(address, pfn, section))
        low = spanning[0].start_pfn if spanning else chunk.start_pfn
        high = spanning[0].end_pfn if spanning else chunk.end_pfn
        first = self._entry(chunk, max(chunk.start_pfn, low))
        last = self._entry(chunk, min(chunk.end_pfn, high) - 1)
        info["consequences"] = [asdict(item) for item in consequences(memory, entry, first, last, section)]
        info["findings"] = [asdict(finding) for finding in rules]
        return info

    def _bitmap(self, pfn: int, entry: Entry, section: Section) -> Dict[str, Any]:
        """Get the pageblock's bits, through the page's link with FLATMEM."""
        memory, layout = self._memory, self._memory.layout
        if layout.flatmem:
            zone = memory.zone(*layout.node_zone(entry.link))
            if zone is None or not zone.bitmap:
                return {"bitmap": None}
            base, start, limit = zone.bitmap, zone.start_pfn, bitmap.usemap_size(layout, zone)
        else:
            if not section.bitmap:
                return {"bitmap": None}
            base, start, limit = section.bitmap, 0, bitmap.section_usemap_size(layout)
        index = bitmap.pfn_to_bitidx(layout, start, pfn)
        address = bitmap.bitmap_word_address(layout, base, index)
        result: Dict[str, Any] = {"bitmap": base, "bitmap_index": index, "bitmap_limit": limit, "bitmap_word": address}
        if index >= limit:
            return {**result, "migratetype": None}
        try:
            bits = bitmap.pageblock_bits(layout, self._target.prog.read_word(address), index)
        except FaultError:
            return {**result, "migratetype": None}
        number = bits & 7
        names = layout.migratetypes
        result["migratetype"] = names[number] if number < len(names) else f"{number} (out of range)"
        result["pageblock_skip"] = bool(bits & 8)
        if layout.bits_per_pageblock == 8:
            result["pageblock_isolate"] = bool(bits & 16)
        return result

    @staticmethod
    def _flag_names(page: Object) -> str:
        names = decode_page_flags(page)
        return "" if names == "0" else names

    def _struct_page(self, address: int, pfn: int, section: Section) -> Dict[str, Any]:
        """Decode what drgn's helpers know of a struct page."""
        layout = self._memory.layout
        prog = self._target.prog
        page = Object(prog, "struct page *", address & ((1 << layout.word_bits) - 1))
        data = self._memmap.entry(pfn, section)
        order = "<" if layout.byteorder == "little" else ">"
        words = np.frombuffer(data, f"{order}u{layout.word_bits // 8}")
        result: Dict[str, Any] = {
            "flags": self._flag_names(page),
            "refcount": int(np.frombuffer(data, f"{order}i4", 1, layout.refcount_offset)[0]),
            "mapcount": int(np.frombuffer(data, f"{order}i4", 1, layout.mapcount_offset)[0]),
            "words": [f"{int(word):#0{layout.word_bits // 4 + 2}x}" for word in words],
        }
        try:
            result["slab"] = PageSlab(page)
            if PageCompound(page):
                head = compound_head(page).value_()
                result["compound"] = {
                    "part": "head" if PageHead(page) else "tail" if PageTail(page) else "unknown",
                    "head_pfn": (head - section.mem_map) // layout.page_struct_size,
                    "order": compound_order(compound_head(page)).value_(),
                }
        except (LookupError, FaultError, AttributeError):
            # Garbage in the entry leads the helpers to memory that isn't there.
            result["compound"] = {"part": "unknown"}
        return result
