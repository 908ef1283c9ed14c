# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Large machines in use: ``python -m tests.benchmarks.tiles 6.12 1024 OUT`` writes a capture of one of 1 TiB.

A recording of a busy guest (:mod:`tests.benchmarks.recording`) is tiled: the sections of each zone that begins at 4 GiB
or higher are repeated until the machine is as large as asked. What leads to another struct page is put right for each
copy: heads of compound pages, and the links of lists. The free lists of a zone lead through all of its copies and back
to their heads; the per-CPU lists are cut and given to 256 CPUs by turns. Sections, their usage and pageblock bitmaps,
spans and counts of zones and nodes, nr_free, compaction's cursors and System RAM in iomem_resource follow. In kernels
with VMEMMAP page->flags has no section, and each zone's copies stay in its zone and node, so flags stay as they are.

What stays as it was recorded: pointers to anything but struct pages (mappings, slab caches, objects), and LRU and slab
lists where they lead from one zone to another. No rule follows these.

Memory is bounded whatever the size: the recording is mapped, one section's struct pages (2 MiB) are in memory at a
time, and besides these only what each list's ends are, and the tables of sections. The file has 1/64 of the size.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, sizeof
from drgn.helpers.linux.list import list_for_each

from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import Kernel, open_kernel
from mminspect.memorymap.zones import Zone
from mminspect.program.elf import ET_CORE, PT_LOAD, PT_NOTE, Elf, Header, Segment
from tests.benchmarks.recording import record

CPUS = 256
GIB_PAGES = 1 << 18
FIRST_TILED = 4 * GIB_PAGES
# Where structures are that the recording has none of: addresses that nothing in it has.
NEW = 0xFFFFC9FF00000000
PER_CPU = 0xFFFFC9F000000000
ALIGNMENT = 1 << 21
MASK = (1 << 64) - 1
PTR = struct.Struct("<Q")


class Image:
    """Memory in pieces that don't overlap, which can be written over."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[bytearray] = []

    def write(self, address: int, data: bytes) -> None:
        """Write over what is there, and add what isn't."""
        while data:
            index = bisect_right(self._starts, address) - 1
            if index >= 0 and address < self._starts[index] + len(self._pieces[index]):
                at = address - self._starts[index]
                size = min(len(data), len(self._pieces[index]) - at)
                self._pieces[index][at : at + size] = data[:size]
            else:
                size = len(data)
                if index + 1 < len(self._starts):
                    size = min(size, self._starts[index + 1] - address)
                self._starts.insert(index + 1, address)
                self._pieces.insert(index + 1, bytearray(data[:size]))
            address, data = address + size, data[size:]

    def pieces(self) -> Iterator[tuple[int, bytearray]]:
        """Go through the pieces, ascending; those that touch come as one."""
        start, kept = 0, bytearray()
        for address, piece in zip(self._starts, self._pieces):
            if kept and start + len(kept) == address:
                kept += piece
                continue
            if kept:
                yield start, kept
            start, kept = address, bytearray(piece)
        if kept:
            yield start, kept


class Part(NamedTuple):
    """
    A zone's sections, and where their copies are.

    :ivar start: First pfn that was recorded.
    :ivar pages: How many, with holes.
    :ivar first: First pfn of the first copy.
    :ivar copies: How many copies there are.
    """

    zone: Zone
    start: int
    pages: int
    first: int
    copies: int


class Chain(NamedTuple):
    """
    Pages that follow each other on a list, as they were recorded, in each copy.

    :ivar first: Address of the first page's ``lru``.
    :ivar last: Address of the last page's.
    :ivar heads: The lists that copies are given to by turns.
    :ivar number: Which of the chains of one list this is.
    :ivar siblings: All of them.
    """

    first: int
    last: int
    heads: tuple[int, ...]
    number: int
    siblings: list[Chain]


def tile(recording: Path, out: Path, gib: int, cpus: int = CPUS) -> None:
    """
    Write a capture of a large machine.

    :param recording: Capture of a guest of x86-64 with VMEMMAP, with zones of whole sections from 4 GiB on.
    :param gib: Where memory ends.
    """
    with open_kernel(Inputs(str(recording))) as kernel, recording.open("rb") as source, out.open("wb") as file:
        Tiler(kernel, source, gib, cpus).write(file)


class Tiler:
    """Makes one machine of one recording."""

    def __init__(self, kernel: Kernel, source: IO[bytes], gib: int, cpus: int) -> None:
        self._kernel, self._prog, self._memory = kernel, kernel.prog, kernel.memory
        self._cpus = cpus
        layout = self._memory.layout
        assert layout.pfn_section_shift is not None
        self._per_section = 1 << layout.pfn_section_shift
        self._size, self._lru = layout.page.size, layout.page.lru_offset
        self._vmemmap = self._memory.sections[0].mem_map
        self._bytes = np.memmap(source, np.uint8, "r")
        elf = Elf.of(bytes(self._bytes[:16]))
        assert elf is not None
        self._elf = elf
        header = self._elf.header(bytes(self._bytes[: self._elf.header_size]))
        table = self._bytes[header.phoff : header.phoff + header.phnum * self._elf.segment_size]
        self._machine = header.machine
        self._segments = list(self._elf.segments(bytes(table)))
        self._parts = self._plan(gib * GIB_PAGES)
        self._image = Image()
        # By the recorded section, the chains of which an end is in it: (word, chain, part, whether it is the first).
        self._ends: dict[int, list[tuple[int, Chain, Part, bool]]] = defaultdict(list)
        # By the recorded section, links that its struct pages are given: (address, value).
        self._patches: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def _plan(self, end: int) -> list[Part]:
        zones = [zone for zone in self._memory.populated_zones if zone.spanned]
        large = [zone for zone in zones if zone.start_pfn >= FIRST_TILED]
        parts = [Part(z, z.start_pfn, z.spanned, z.start_pfn, 1) for z in zones if z not in large]
        at = FIRST_TILED
        for index, zone in enumerate(large):
            if zone.start_pfn % self._per_section or zone.spanned % self._per_section:
                raise ValueError(f"{zone} is not of whole sections")
            copies = max(1, (end - at) // (len(large) - index) // zone.spanned)
            parts.append(Part(zone, zone.start_pfn, zone.spanned, at, copies))
            at += copies * zone.spanned
        return parts

    def _address(self, pfn: int) -> int:
        return (self._vmemmap + pfn * self._size) & MASK

    def _nr(self, address: int) -> int:
        """Get the recorded section that a struct page is in."""
        return (address - self._vmemmap) // self._size // self._per_section

    def _read(self, address: int, size: int) -> bytes:
        data: bytes = self._prog.read(address, size)
        return data

    def _pointer(self, address: int) -> int:
        return int(PTR.unpack(self._read(address, 8))[0])

    def _moved(self, part: Part, copy: int) -> int:
        """Get how far a copy's struct pages are from those that were recorded."""
        return (part.first - part.start + copy * part.pages) * self._size

    def _put(self, member: Object, value: int) -> None:
        assert member.address_ is not None
        self._image.write(member.address_, value.to_bytes(sizeof(member), "little"))

    def write(self, file: IO[bytes]) -> None:
        """Write the machine."""
        self._copy_rest()
        self._make_sections()
        for part in self._parts:
            self._change_zone(part)
        self._change_nodes()
        self._make_cpus()
        self._change_resources()
        self._write_file(file)

    def _copy_rest(self) -> None:
        """Take over everything but struct pages."""
        low = self._address(0)
        high = self._address(max(part.start + part.pages for part in self._parts))
        for segment in self._segments:
            if segment.type != PT_LOAD:
                continue
            end = segment.vaddr + segment.filesz
            for start, stop in ((segment.vaddr, min(end, low)), (max(segment.vaddr, high), end)):
                if start < stop:
                    at = segment.offset + start - segment.vaddr
                    self._image.write(start, self._bytes[at : at + stop - start].tobytes())

    def _make_sections(self) -> None:
        prog = self._prog
        struct_type = prog.type("struct mem_section")
        size, usage_at = sizeof(struct_type), struct_type.member("usage").offset
        usage_size = sizeof(prog.type("struct mem_section_usage")) + len(self._memory.sections[0].pageblock_flags)
        per_root = prog["PAGE_SIZE"].value_() // size
        roots_at = prog["mem_section"].value_()
        recorded: dict[int, bytes] = {}
        usage: dict[int, bytes] = {}
        roots: dict[int, bytearray] = defaultdict(lambda: bytearray(per_root * size))
        numbers = sorted((to, of) for to, of, _, _ in self._copies())
        usages = bytearray()
        step = -(-usage_size // 8) * 8
        for to, of in numbers:
            if of not in recorded:
                root = self._pointer(roots_at + of // per_root * 8)
                recorded[of] = self._read(root + of % per_root * size, size)
                pointer = PTR.unpack_from(recorded[of], usage_at)[0]
                usage[of] = self._read(pointer, usage_size)
            entry = bytearray(recorded[of])
            PTR.pack_into(entry, usage_at, NEW + len(usages))
            usages += usage[of].ljust(step, b"\0")
            at = to % per_root * size
            roots[to // per_root][at : at + size] = entry
        self._image.write(NEW, bytes(usages))
        at = NEW + (len(usages) + 4095) // 4096 * 4096
        for root, data in sorted(roots.items()):
            self._image.write(at, bytes(data))
            self._image.write(roots_at + root * 8, PTR.pack(at))
            at += len(data)

    def _change_zone(self, part: Part) -> None:
        zone = Object(self._prog, "struct zone", address=part.zone.address)
        if part.copies > 1 or part.first != part.start:
            self._put(zone.zone_start_pfn, part.first)
            self._put(zone.spanned_pages, part.pages * part.copies)
            self._put(zone.present_pages, part.zone.present * part.copies)
            self._put(zone.managed_pages.counter, part.zone.managed * part.copies)
        free = self._prog["NR_FREE_PAGES"].value_()
        with contextlib.suppress(FaultError):
            self._put(zone.vm_stat[free].counter, max(0, zone.vm_stat[free].counter.value_()) * part.copies)
        cursors = [zone.compact_cached_free_pfn, zone.compact_init_migrate_pfn, zone.compact_init_free_pfn]
        for member in (*cursors, *zone.compact_cached_migrate_pfn):
            value = member.value_()
            if part.start <= value <= part.start + part.pages:
                self._put(member, value - part.start + part.first)
        for area in zone.free_area:
            self._put(area.nr_free, area.nr_free.value_() * part.copies)
            for head in area.free_list:
                first, last = head.next.value_(), head.prev.value_()
                if first != head.address_:
                    chains: list[Chain] = []
                    chains.append(Chain(first, last, (head.address_,), 0, chains))
                    self._add(part, chains)

    def _add(self, part: Part, chains: list[Chain]) -> None:
        """Put the chains of each copy on their lists."""
        for chain in chains:
            for node, first in ((chain.first, True), (chain.last, False)):
                nr = self._nr(node)
                word = (node + 8 * first - self._address(nr * self._per_section)) // 8
                self._ends[nr].append((word, chain, part, first))
        heads = chains[0].heads
        total = part.copies * len(chains)
        for number in range(min(len(heads), total)):
            last = number + (total - 1 - number) // len(heads) * len(heads)
            links = (self._node(part, chains, number, True), self._node(part, chains, last, False))
            self._image.write(heads[number], struct.pack("<QQ", *links))

    def _node(self, part: Part, chains: list[Chain], number: int, first: bool) -> int:
        """Get the first or the last page of a chain of a copy."""
        copy, index = divmod(number, len(chains))
        chain = chains[index]
        return (chain.first if first else chain.last) + self._moved(part, copy)

    def _neighbor(self, part: Part, copy: int, chain: Chain, first: bool) -> int:
        """Get what is before the first page of a chain, or behind its last."""
        chains, lists = chain.siblings, len(chain.heads)
        number = copy * len(chains) + chain.number
        other = number - lists if first else number + lists
        if 0 <= other < part.copies * len(chains):
            return self._node(part, chains, other, not first)
        return chain.heads[number % lists]

    def _change_nodes(self) -> None:
        for node in self._memory.nodes:
            parts = [part for part in self._parts if part.zone.node == node.nid]
            if not parts:
                continue
            pgdat = Object(self._prog, "struct pglist_data", address=node.address)
            start = min(part.first for part in parts)
            self._put(pgdat.node_start_pfn, start)
            self._put(pgdat.node_spanned_pages, max(p.first + p.pages * p.copies for p in parts) - start)
            self._put(pgdat.node_present_pages, sum(p.zone.present * p.copies for p in parts))

    def _make_cpus(self) -> None:
        """Give each zone's lists of the recorded CPUs to all CPUs."""
        prog = self._prog
        offsets = prog["__per_cpu_offset"]
        mask = prog["__cpu_possible_mask"].bits
        recorded = [cpu for cpu in range(64) if mask[0].value_() >> cpu & 1]
        bases = [offsets[cpu].value_() for cpu in recorded]
        pagesets = {
            p.zone: Object(prog, "struct zone", address=p.zone.address).per_cpu_pageset.value_() for p in self._parts
        }
        kind = prog.type("struct per_cpu_pages")
        lowest = min(pagesets.values())
        stride = (max(pagesets.values()) - lowest + sizeof(kind) + 4095) // 4096 * 4096
        new = [PER_CPU + cpu * stride - lowest for cpu in range(self._cpus)]
        assert offsets.address_ is not None
        assert mask.address_ is not None
        self._image.write(offsets.address_, b"".join(PTR.pack(base & MASK) for base in new))
        self._image.write(mask.address_, b"".join(PTR.pack(MASK) for _ in range(self._cpus // 64)))
        for part in self._parts:
            pageset = pagesets[part.zone]
            olds = [Object(prog, "struct per_cpu_pages", address=(pageset + base) & MASK) for base in bases]
            data = olds[0].to_bytes_()
            for base in new:
                self._image.write((pageset + base) & MASK, data)
            counts = [0] * self._cpus
            for index in range(len(olds[0].lists)):
                heads = tuple((pageset + base + kind.member("lists").offset + 16 * index) & MASK for base in new)
                for head in heads:
                    self._image.write(head, PTR.pack(head) * 2)
                pages = [node.value_() for old in olds for node in list_for_each(old.lists[index].address_of_())]
                order = index // 3 if index < 12 else 9
                self._deal(part, pages, heads, order, counts)
            for base, count in zip(new, counts):
                self._image.write((pageset + base + kind.member("count").offset) & MASK, struct.pack("<i", count))

    def _deal(self, part: Part, pages: list[int], heads: tuple[int, ...], order: int, counts: list[int]) -> None:
        """Cut a list, and give the pieces of all copies to the CPUs by turns."""
        groups = min(len(pages), -(-len(heads) // part.copies))
        chains: list[Chain] = []
        for group in range(groups):
            piece = pages[group * len(pages) // groups : (group + 1) * len(pages) // groups]
            chains.append(Chain(piece[0], piece[-1], heads, group, chains))
            self._links(piece)
            for copy in range(part.copies):
                counts[(copy * groups + group) % len(heads)] += len(piece) << order
        if chains:
            self._add(part, chains)

    def _links(self, piece: list[int]) -> None:
        """Link the pages of a piece, where that was cut from the lists of several CPUs."""
        for before, after in zip(piece, piece[1:]):
            if self._pointer(before) != after:
                self._patches[self._nr(before)].append((before, after))
                self._patches[self._nr(after)].append((after + 8, before))

    def _change_resources(self) -> None:
        end = max(part.first + part.pages * part.copies for part in self._parts) << 12
        child = self._prog["iomem_resource"].child
        while child:
            if child.start.value_() == FIRST_TILED << 12:
                self._put(child.end, end - 1)
            child = child.sibling

    def _struct_pages(self, nr: int) -> npt.NDArray[np.uint64]:
        """Read a section's struct pages as they were recorded, with pieces of per-CPU lists linked."""
        start = self._address(nr * self._per_section)
        words = np.frombuffer(self._read(start, self._per_section * self._size), np.uint64).copy()
        for address, value in self._patches.get(nr, ()):
            words[(address - start) // 8] = value
        return words

    def _copies(self) -> Iterator[tuple[int, int, Part, int]]:
        """Go through the sections in order: (number, recorded number, part, copy)."""
        known = {section.nr for section in self._memory.sections}
        done = set()
        for part in self._parts:
            first = part.start // self._per_section
            numbers = range(first, (part.start + part.pages - 1) // self._per_section + 1)
            for copy in range(part.copies):
                for nr in numbers:
                    to = nr + (part.first - part.start + copy * part.pages) // self._per_section
                    if nr in known and to not in done:
                        done.add(to)
                        yield to, nr, part, copy

    def _section(self, nr: int, part: Part, copy: int) -> npt.NDArray[np.uint64]:
        """Make a section's struct pages."""
        recorded = self._struct_pages(nr)
        words = recorded.copy()
        for other in self._parts:
            moved = self._moved(other, copy if other is part else 0)
            low, high = self._address(other.start), self._address(other.start + other.pages)
            if moved:
                inside = (recorded >= np.uint64(low)) & (recorded < np.uint64(high))
                words[inside] += np.uint64(moved & MASK)
        for word, chain, owner, first in self._ends.get(nr, ()):
            words[word] = self._neighbor(owner, copy if owner is part else 0, chain, first)
        return words

    def _write_file(self, file: IO[bytes]) -> None:
        made = sorted(self._copies(), key=lambda item: item[0])
        size = self._per_section * self._size
        runs: list[list[int]] = []
        for to, *_ in made:
            if runs and runs[-1][0] + runs[-1][1] == to:
                runs[-1][1] += 1
            else:
                runs.append([to, 1])
        elf = self._elf
        notes = next(segment for segment in self._segments if segment.type == PT_NOTE)
        pieces = list(self._image.pieces())
        count = 1 + len(pieces) + len(runs)
        at = elf.header_size + count * elf.segment_size
        segments = [Segment(at, 0, 0, notes.filesz, notes.filesz, PT_NOTE)]
        at += notes.filesz
        for address, data in pieces:
            segments.append(Segment(at, address, MASK, len(data), len(data)))
            at += len(data)
        for first, number in runs:
            at = -(-at // ALIGNMENT) * ALIGNMENT
            segments.append(Segment(at, self._address(first * self._per_section), MASK, number * size, number * size))
            at += number * size
        file.write(elf.pack_header(Header(ET_CORE, self._machine, phoff=elf.header_size, phnum=count)))
        for segment in segments:
            file.write(elf.pack_segment(segment))
        file.write(self._bytes[notes.offset : notes.offset + notes.filesz].tobytes())
        for _, data in pieces:
            file.write(data)
        places = {first: segment.offset for (first, _), segment in zip(runs, segments[1 + len(pieces) :])}
        for to, nr, part, copy in made:
            if to in places:
                file.seek(places[to])
            file.write(self._section(nr, part, copy).tobytes())


def main(arguments: list[str]) -> None:
    """Write the machine that was asked for."""
    kernel, gib, out = arguments
    tile(record(kernel), Path(out), int(gib))


if __name__ == "__main__":
    main(sys.argv[1:])
