# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sections: which pfns have a struct page that kernel code may look at, and where it is.

That is ``pfn_to_online_page()``, per section. FLATMEM is treated as one section without a number of
its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, Program, Type, TypeKind, sizeof

from mminspect.errors import LayoutError
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.ranges import Range, merge, subtract
from mminspect.memorymap.sections import LazySequence, Section, SectionEntry
from mminspect.program import since
from mminspect.program.arch import arch_of, elf_of
from mminspect.typeinfo.sections import IS_EARLY, TAINT_ZONE_DEVICE, has_vmemmap, section_flags, sections_per_root

# Drivers give each device of their own a few.
MAX_PGMAP_RANGES = 4096
SUBSECTION_SHIFT = 21


def _word_type(prog: Program) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"{elf_of(prog.platform).order}u{sizeof(prog.type('unsigned long'))}")


def _read(prog: Program, address: int, size: int, what: str) -> bytes:
    try:
        data: bytes = prog.read(address, size)
        return data
    except FaultError as e:
        raise LayoutError(f"{what} at {address:#x} can't be read: {e}; the dump doesn't hold it") from None


def _roots(prog: Program, sections_per_root: int) -> Iterator[tuple[int, int, int]]:
    """
    Find the arrays of ``struct mem_section``.

    :return: Iterator of (number of the first section, address, number of sections).
    """
    mem_section = prog["mem_section"]
    nr_roots = prog["NR_SECTION_ROOTS"].value_()
    type_ = mem_section.type_.unaliased()
    if type_.kind == TypeKind.ARRAY and type_.type.unaliased_kind() == TypeKind.ARRAY:
        # SPARSEMEM_STATIC: one array of all sections.
        address = mem_section.address_
        assert address is not None
        yield 0, address, nr_roots * sections_per_root
        return
    word = _word_type(prog)
    pointers_at = mem_section.value_() if type_.kind == TypeKind.POINTER else mem_section.address_
    pointers = np.frombuffer(_read_root_pointers(prog, pointers_at, nr_roots * word.itemsize), word)
    for root in np.flatnonzero(pointers).tolist():
        yield root * sections_per_root, int(pointers[root]), sections_per_root


def _read_root_pointers(prog: Program, address: int, size: int) -> bytes:
    """
    Read the array of pointers to roots.

    With five-level page tables it takes 2 MiB, nearly all of them zeros, and ``makedumpfile -E`` leaves long runs of
    zeros out of a dump. It never leaves a page of the kernel's data out that isn't zero, so what is left out holds no
    root. That is so of no other memory: free pages are left out, too, and their struct pages.

    :raises LayoutError: if it can't be read for another reason, or nothing of it is there.
    """
    with contextlib.suppress(FaultError):
        whole: bytes = prog.read(address, size)
        return whole
    page = prog["PAGE_SIZE"].value_()
    data = bytearray(size)
    held = False
    offset = 0
    while offset < size:
        stop = min(size, ((address + offset) // page + 1) * page - address)
        try:
            data[offset:stop] = prog.read(address + offset, stop - offset)
            held = True
        except FaultError as e:
            if "xcluded" not in str(e):
                return _read(prog, address + offset, stop - offset, "mem_section")
        offset = stop
    return bytes(data) if held else _read(prog, address, size, "mem_section")


def sparse_sections(
    prog: Program, bitmap_size: int, checks_subsections: bool = False
) -> tuple[Sequence[Section], Sequence[SectionEntry]]:
    """
    Get the sections of a SPARSEMEM kernel.

    :param bitmap_size: Bytes of a section's pageblock bitmap; each bitmap is read once, so that a dump
        that lacks it is refused before anything is said of it.
    :param checks_subsections: Whether ``pfn_to_online_page()`` looks at the subsections of early sections, too.
    :return: The valid and online ones, and every one that isn't empty.
    :raises LayoutError: if they can't be read, or make no sense.
    """
    section_bits = prog["SECTION_SIZE_BITS"].value_()
    page_shift = prog["PAGE_SHIFT"].value_()
    per_section = 1 << (section_bits - page_shift)
    per_root = sections_per_root(prog)
    sections = prog["NR_SECTION_ROOTS"].value_() * per_root
    possible = 1 << (prog["MAX_PHYSMEM_BITS"].value_() - section_bits)
    # NR_SECTION_ROOTS is rounded up, so there can be less than a root more.
    if not possible <= sections < possible + per_root:
        raise LayoutError(
            f"there are {sections} sections in mem_section, but {possible} in the physical memory; the types or the "
            "dump are not of this kernel"
        )
    flags = section_flags(prog)
    struct = prog.type("struct mem_section")
    word = _word_type(prog)
    members = {"section_mem_map": struct.member("section_mem_map").offset}
    # Since Linux kernel commit f1eca35a0dc7 ("mm/sparsemem: introduce struct mem_section_usage") (in v5.3), the
    # bitmap is in a structure of its own.
    bitmap_member = "usage" if struct.has_member("usage") else "pageblock_flags"
    members["bitmap"] = struct.member(bitmap_member).offset
    # A kernel with struct pageblock_data may have neither.
    has_bitmap = bitmap_size > 0
    usage = prog.type("struct mem_section_usage") if bitmap_member == "usage" else None
    if usage is not None and not usage.has_member("subsection_map") and has_vmemmap(prog):
        raise LayoutError(
            "struct mem_section_usage has no subsection_map: the kernel is newer than what mminspect knows, or the "
            "types are damaged"
        )
    record = np.dtype(
        {
            "names": list(members),
            "formats": [word, word],
            "offsets": list(members.values()),
            "itemsize": sizeof(struct),
        }
    )
    tables = []
    for first, address, count in _roots(prog, per_root):
        table = np.frombuffer(_read(prog, address, count * record.itemsize, "struct mem_section"), record)
        used = np.flatnonzero(table["section_mem_map"])
        tables.append((first + used, table["section_mem_map"][used], table["bitmap"][used]))
    empty = (np.zeros(0, np.intp), np.zeros(0, word), np.zeros(0, word))
    numbers, values, pointers = (np.concatenate(column) for column in zip(*tables or [empty]))

    def entry(index: int) -> SectionEntry:
        value = values.item(index)
        return SectionEntry(numbers.item(index), flags.names(value), value & flags.map_mask, pointers.item(index))

    wanted = word.type(flags.online)
    online = np.flatnonzero(values & wanted == wanted)
    offset = usage.member("pageblock_flags").offset if usage is not None and has_bitmap else 0
    bitmaps = np.zeros((len(online), bitmap_size), np.uint8)
    # The ranges of sections that aren't online as a whole.
    partly: dict[int, tuple[Range, ...]] = {}
    absent: dict[int, tuple[Range, ...]] = {}
    device_ranges: list[Range] | None = None
    for at, index in enumerate(online.tolist()):
        nr, value, pointer = int(numbers[index]), int(values[index]), int(pointers[index])
        names = flags.names(value)
        start = nr * per_section
        whole = ranges = [(start, start + per_section)]
        if usage is not None and pointer and IS_EARLY not in names:
            ranges = _subsections(prog, usage, pointer, start, per_section, page_shift)
        if TAINT_ZONE_DEVICE in names:
            if device_ranges is None:
                device_ranges = _device_ranges(prog, page_shift)
            ranges = subtract(ranges, device_ranges)
        if ranges != whole:
            partly[at] = tuple(ranges)
        if pointer and has_bitmap:
            data = _read(prog, pointer, offset + bitmap_size, f"the pageblock bitmap of section {nr}")
            bitmaps[at] = np.frombuffer(data, np.uint8, bitmap_size, offset)
        if checks_subsections and usage is not None and pointer and IS_EARLY in names:
            there = _subsections(prog, usage, pointer, start, per_section, page_shift)
            if there != whole:
                absent[at] = tuple(subtract(whole, there))

    def section(at: int) -> Section:
        index = online.item(at)
        nr, value, pointer = numbers.item(index), values.item(index), pointers.item(index)
        start = nr * per_section
        return Section(
            nr,
            partly.get(at, ((start, start + per_section),)),
            value & flags.map_mask,
            pointer + offset if pointer and has_bitmap else 0,
            flags.names(value),
            bitmaps[at].tobytes() if pointer else b"",
            absent.get(at, ()),
        )

    return LazySequence(len(online), section), LazySequence(len(numbers), entry)


def _subsections(
    prog: Program, usage: Type, address: int, start: int, per_section: int, page_shift: int
) -> list[Range]:
    """Get the ranges of a section that ``pfn_section_valid()`` accepts."""
    if not usage.has_member("subsection_map"):
        # Without SPARSEMEM_VMEMMAP, a section is valid as a whole.
        return [(start, start + per_section)]
    member = usage.member("subsection_map")
    pages = 1 << (SUBSECTION_SHIFT - page_shift)
    count = per_section // pages
    word = _word_type(prog)
    size = -(-count // (word.itemsize * 8)) * word.itemsize
    data = _read(prog, address + member.offset, size, "a section's subsection_map")
    # Bit n of the bitmap is bit n % BITS_PER_LONG of a word.
    words = np.frombuffer(data, word).astype(word.newbyteorder("<"))
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:count]
    return merge((start + bit * pages, start + (bit + 1) * pages) for bit in np.flatnonzero(bits).tolist())


def subsection(prog: Program, pfn: int) -> bool | None:
    """Get a pfn's bit in its section's ``subsection_map``; ``None`` if there is no such map."""
    try:
        size_bits, shift = prog["SECTION_SIZE_BITS"].value_(), prog["PAGE_SHIFT"].value_()
        per_section = 1 << (size_bits - shift)
        number = pfn >> (size_bits - shift)
        per_root = sections_per_root(prog)
        section = prog["mem_section"][number // per_root][number % per_root]
        index = (pfn & (per_section - 1)) >> (SUBSECTION_SHIFT - shift)
        word_bits = 8 * sizeof(prog.type("unsigned long"))
        word = section.usage.subsection_map[index // word_bits].value_()
        return bool(word >> index % word_bits & 1)
    except (LookupError, FaultError, AttributeError, ValueError, TypeError):
        return None


def device_pagemaps(prog: Program, page_shift: int) -> Iterator[tuple[Range, Object]]:
    """
    Find the memory of ZONE_DEVICE.

    :return: Iterator of (pfns, ``struct dev_pagemap *``).
    """
    # Imported late: drgn loads all its helpers at once, and most scans need none.
    from drgn.helpers.linux.xarray import xa_for_each

    pgmaps: dict[int, Object] = {}
    for _, entry in xa_for_each(prog["pgmap_array"].address_of_()):
        pgmaps.setdefault(entry.value_(), Object(prog, "struct dev_pagemap *", entry.value_()))
    for pgmap in pgmaps.values():
        # Since Linux kernel commit b7b3c01b1915 ("mm/memremap_pages: support multiple ranges per invocation") (in
        # v5.10), there can be more than one range; before 5.9 it was a resource.
        if prog.type("struct dev_pagemap").has_member("nr_range"):
            count = pgmap.nr_range.value_()
            if not 0 <= count <= MAX_PGMAP_RANGES:
                raise LayoutError(f"a dev_pagemap with {count} ranges can't be; it is damaged")
            items = [pgmap.ranges[i] for i in range(count)]
        elif prog.type("struct dev_pagemap").has_member("range"):
            items = [pgmap.range]
        else:
            items = [pgmap.res]
        for item in items:
            yield (item.start.value_() >> page_shift, (item.end.value_() + 1) >> page_shift), pgmap


def _device_ranges(prog: Program, page_shift: int) -> list[Range]:
    """Get the pfns that ``pfn_to_online_page()`` refuses in sections that device memory shares with RAM."""
    return merge(pages for pages, _ in device_pagemaps(prog, page_shift))


def flat_sections(prog: Program, release: str, pageblock_nr_pages: int) -> list[Section]:
    """
    Get the memmap of a FLATMEM kernel.

    :return: One "section" with all that ``pfn_valid()`` accepts.
    :raises LayoutError: if its size can't be.
    """
    offset = prog["ARCH_PFN_OFFSET"].value_()
    max_mapnr = prog["max_mapnr"].value_()
    size = sizeof(prog.type("struct page"))
    address = prog["mem_map"].value_()
    word_bits = 8 * sizeof(prog.type("unsigned long"))
    if max_mapnr == 0 or address + max_mapnr * size >= 1 << word_bits:
        raise LayoutError(
            f"max_mapnr is {max_mapnr}, mem_map {address:#x}: such a memmap can't be; the dump is damaged"
        )
    ranges = [(offset, offset + max_mapnr)]
    if arch_of(prog.platform).pfn_valid_by_memblock:
        ranges = _memblock_ranges(prog, release, pageblock_nr_pages)
    return [Section(0, tuple(ranges), address - offset * size, 0)]


def clip_to_mem_map(found: Sequence[Section], layout: Layout, ends: Iterable[int]) -> list[Section]:
    """
    Leave out what ``pfn_valid()`` of FLATMEM accepts behind the end of ``mem_map``: that are no struct pages.

    ``max_mapnr`` can come from another list of memory than the nodes. ``alloc_node_mem_map()`` gives ``mem_map`` the
    span of its node, to a multiple of MAX_ORDER_NR_PAGES.

    :param ends: Pfns behind the last of each node and zone.
    """
    block = 1 << layout.max_order
    limit = max((-(-end // block) * block for end in ends), default=0)
    return [
        section._replace(ranges=tuple((start, min(end, limit)) for start, end in section.ranges if start < limit))
        for section in found
    ]


def _memblock_ranges(prog: Program, release: str, pageblock_nr_pages: int) -> list[Range]:
    """``pfn_valid()`` of 32-bit Arm, which frees the memmap of holes."""
    page_shift = prog["PAGE_SHIFT"].value_()
    memory = prog["memblock"].memory
    ranges: list[Range] = []
    for region in memory.regions[: memory.cnt.value_()]:
        base = region.base.value_()
        start, end = base >> page_shift, (base + region.size.value_()) >> page_shift
        # Since Linux kernel commit a4d5613c4dc6 ("arm: extend pfn_valid to take into account freed memory map
        # alignment") (in v5.14), a pageblock that memory touches is valid as a whole.
        if since.arm_memmap_has_whole_blocks(release):
            start = start & -pageblock_nr_pages
            end = (end + pageblock_nr_pages - 1) & -pageblock_nr_pages
        ranges.append((start, end))
    return merge(ranges)


def section_to_node_table(prog: Program, layout: Layout) -> npt.NDArray[np.unsignedinteger] | None:
    """
    Read the nodes by section where ``page->flags`` has no room for the node (NODE_NOT_IN_PAGE_FLAGS).

    :return: ``None`` where the flags have it, or no symbol names the table.
    :raises LayoutError: if the table can't be read.
    """
    if not layout.flags.node_not_in_page_flags:
        return None
    try:
        table = prog["section_to_node_table"]
        size = sizeof(table.type_.type)
        assert table.address_ is not None
        return np.frombuffer(prog.read(table.address_, sizeof(table)), f"{layout.order}u{size}")
    except LookupError:
        return None
    except FaultError as e:
        raise LayoutError(f"section_to_node_table can't be read: {e}") from None
