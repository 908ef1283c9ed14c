# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is known of one kernel's memory map, as plain numbers.

These records are what the checks see: no drgn object is in them. They are made in
:mod:`mminspect.layout`, and by hand in tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Callable, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

from mminspect.digest import Digest, digest

FLATMEM = "flatmem"
SPARSEMEM = "sparsemem"
SPARSEMEM_VMEMMAP = "sparsemem_vmemmap"


class Field(NamedTuple):
    """
    A bit field of ``page->flags``.

    :ivar shift: Lowest bit, 0 if the field has no width.
    :ivar width: Bits, 0 if the kernel has no such field.
    """

    shift: int
    width: int

    @property
    def mask(self) -> int:
        """Mask of the field's value, unshifted."""
        return (1 << self.width) - 1


@dataclass(frozen=True)
class PageFlagsLayout:
    """
    Where ``page->flags`` has section, node and zone (``include/linux/page-flags-layout.h``).

    :ivar section: SPARSEMEM without VMEMMAP only.
    :ivar node: Width 0 without NUMA, and with NODE_NOT_IN_PAGE_FLAGS.
    :ivar nodes_shift: ``NODES_SHIFT``: how many bits a node needs.
    :ivar memdesc: Whether ``flags`` is a ``memdesc_flags_t``.
    """

    section: Field
    node: Field
    zone: Field
    nodes_shift: int
    memdesc: bool

    @property
    def node_not_in_page_flags(self) -> bool:
        """Whether the node is looked up by section (NODE_NOT_IN_PAGE_FLAGS)."""
        return self.nodes_shift > 0 and self.node.width == 0


@dataclass(frozen=True)
class FreeArea:
    """
    A ``struct free_area``: the free pages of one order.

    :ivar nr_free: Blocks on its lists, as the kernel counts them.
    :ivar heads: Addresses of ``free_list[]``, by migratetype.
    :ivar first: ``free_list[].next``, by migratetype.
    :ivar last: ``free_list[].prev``, by migratetype.
    """

    nr_free: int
    heads: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]


@dataclass(frozen=True)
class ZoneState:
    """
    What a ``struct zone`` has besides its size.

    :ivar free_areas: By order.
    :ivar locked: Whether ``zone->lock`` is held: somebody may be in the middle of changing a list.
    :ivar node: ``zone->node``, ``None`` without NUMA.
    :ivar pgdat: ``zone->zone_pgdat``.
    :ivar cursors: Compaction's cached pfns by member name; none without CONFIG_COMPACTION.
    """

    free_areas: tuple[FreeArea, ...]
    locked: bool
    node: int | None
    pgdat: int
    cursors: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Zone:
    """
    A ``struct zone``. All pfns and page counts as the kernel has them, none corrected.

    :ivar node: Node ID.
    :ivar index: Zone ID (``enum zone_type``).
    :ivar contiguous: ``zone->contiguous``; false in kernels without it.
    :ivar address: Address of the ``struct zone``.
    :ivar bitmap: ``zone->pageblock_flags``; FLATMEM only, else ``None``.
    :ivar pageblock_flags: What is in the bitmap; FLATMEM only.
    :ivar state: What changes while the kernel runs, ``None`` if it wasn't read.
    """

    node: int
    index: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    contiguous: bool = False
    address: int = 0
    bitmap: int | None = None
    pageblock_flags: bytes = field(default=b"", compare=False, repr=False)
    state: ZoneState | None = field(default=None, compare=False, repr=False)

    @property
    def end_pfn(self) -> int:
        """``zone_end_pfn()``."""
        return self.start_pfn + self.spanned

    def spans(self, pfn: int) -> bool:
        """``zone_spans_pfn()``."""
        return self.start_pfn <= pfn < self.end_pfn

    def __str__(self) -> str:
        return f"node {self.node} zone {self.name}"


class ListFault(NamedTuple):
    """
    What is wrong with a per-CPU list.

    :ivar problem: As ``detail.problem`` of the rule ``per-cpu-list``.
    :ivar pfn: Of the page that is wrong, ``None`` for the list's head.
    :ivar value: Address or number that shows it.
    :ivar linked: Whether the page is linked to its neighbours both ways.
    """

    problem: str
    pfn: int | None
    value: int
    linked: bool = False


@dataclass(frozen=True)
class PerCpuList:
    """
    One list of a ``struct per_cpu_pages``: blocks of one order and migratetype.

    :ivar order: Of its blocks; ``None`` for the lists of huge pages.
    :ivar migratetype: In words.
    :ivar pfns: Of the blocks, in the order of the list, as far as it was followed.
    :ivar complete: Whether it was followed to its end.
    """

    order: int | None
    migratetype: str
    pfns: npt.NDArray[np.uint64]
    faults: tuple[ListFault, ...]
    complete: bool


@dataclass(frozen=True)
class PerCpuPages:
    """
    A ``struct per_cpu_pages``: the free pages that one CPU keeps of a zone.

    :ivar count: Its ``count``, in pages.
    :ivar locked: Whether its lock is held, ``None`` if nothing tells whether somebody was changing the lists.
    """

    cpu: int
    node: int
    zone: int
    count: int
    locked: bool | None
    lists: tuple[PerCpuList, ...]


@dataclass(frozen=True)
class Node:
    """
    A ``struct pglist_data``.

    :ivar address: Address of the structure.
    :ivar first_deferred_pfn: First pfn whose struct page waits for deferred initialisation, or
        ``None`` if none does.
    :ivar online: Whether the node is online. One that isn't can have a pgdat, with empty zones.
    :ivar node_id: ``pgdat->node_id``, ``None`` if it can't be read.
    """

    nid: int
    address: int
    start_pfn: int
    spanned: int
    present: int
    first_deferred_pfn: int | None = None
    online: bool = True
    node_id: int | None = None


T = TypeVar("T")

KEPT_RECORDS = 64


class Records(Sequence[T]):
    """
    Records that are made each time they are asked for. A machine may have half a million sections.

    :param count: Number of records.
    :param make: Makes one by its index.
    """

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count = count
        # Many pfns in a row are of one section.
        self._make = lru_cache(KEPT_RECORDS)(make)

    def __len__(self) -> int:
        """Return the number of records."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """Make a record, or some."""
        if isinstance(index, slice):
            return [self._make(i) for i in range(self._count)[index]]
        return self._make(range(self._count)[index])

    def __iter__(self) -> Iterator[T]:
        """Make all of them, one by one."""
        return map(self._make, range(self._count))

    def __eq__(self, other: object) -> bool:
        """Compare record by record."""
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(one == another for one, another in zip(self, other))

    __hash__ = None  # type: ignore[assignment]


class Section(NamedTuple):
    """
    A valid and online section, or a FLATMEM memmap as if it were one.

    :ivar nr: Section number.
    :ivar ranges: Online pfn ranges in it, half-open, ascending.
    :ivar mem_map: Address of the struct page of pfn 0, as if it were there (it often isn't).
    :ivar bitmap: Address of its pageblock bitmap, 0 if the kernel has no pointer to one. FLATMEM has
        its bitmaps in the zones.
    :ivar flags: Flag names, e.g. ``SECTION_IS_EARLY``.
    :ivar pageblock_flags: What is in the bitmap.
    """

    nr: int
    ranges: tuple[tuple[int, int], ...]
    mem_map: int
    bitmap: int
    flags: tuple[str, ...] = ()
    pageblock_flags: bytes = b""


class SectionEntry(NamedTuple):
    """
    A ``struct mem_section`` that isn't empty, online or not.

    :ivar nr: Section number.
    :ivar flags: Flag names.
    :ivar mem_map: Address of the struct page of pfn 0, as if it were there; as in :class:`Section`.
    :ivar usage: The pointer to ``usage``, or to the bitmap before Linux 5.3.
    """

    nr: int
    flags: tuple[str, ...]
    mem_map: int
    usage: int


@dataclass(frozen=True)
class PageMembers:
    """
    What else of ``struct page`` the rules look at. Offsets are in bytes.

    :ivar lru_offset: Offset of ``lru``, which links free pages.
    :ivar compound_head_offset: Offset of ``compound_head``, since Linux 7.1 ``compound_info``.
    :ivar compound_mask: Whether it holds a mask for the address of a tail page, and not the head's address.
    :ivar order_offset: Where a compound page's second entry has its order, in one byte.
    :ivar buddy: ``_mapcount`` of a free page, as 32 bits (``PageBuddy()``).
    :ivar flag_names: Names of the page flags by bit, without ``PG_``.
    """

    lru_offset: int
    private_offset: int
    compound_head_offset: int
    compound_mask: bool
    order_offset: int
    buddy: int
    flag_names: tuple[str, ...]

    def flag(self, name: str) -> int:
        """Get the mask of a flag by name, 0 if the kernel doesn't have it."""
        return 1 << self.flag_names.index(name) if name in self.flag_names else 0

    @property
    def check_at_prep(self) -> int:
        """``PAGE_FLAGS_CHECK_AT_PREP`` without multi-gen LRU's fields: what no free page may have."""
        return ((1 << len(self.flag_names)) - 1) & ~self.flag("hwpoison")


@dataclass(frozen=True)
class Layout:
    """
    Everything that is the same for the whole of one kernel.

    :ivar word_bits: ``BITS_PER_LONG``.
    :ivar page_struct_size: ``sizeof(struct page)`` in bytes.
    :ivar flags_offset: Offset of ``page->flags`` in bytes; likewise the next two.
    :ivar pageblock_order_from: ``option``, ``variable``, ``pagetypeinfo``, ``config`` or ``formula``.
    :ivar bits_per_pageblock: ``NR_PAGEBLOCK_BITS``.
    :ivar bits_from_top: Whether block 0 is at the top of a bitmap word, as before Linux 5.9.
    :ivar pfn_section_shift: ``PFN_SECTION_SHIFT``, or ``None`` with FLATMEM.
    :ivar zone_struct_size: ``sizeof(struct zone)``.
    :ivar node_zones_offset: Offset of ``node_zones`` in ``struct pglist_data``.
    :ivar pgdat_members: (name, offset) of the members of ``struct pglist_data``, ascending.
    :ivar migratetypes: Names of the migratetypes by value.
    :ivar isolate_bit: Whether isolation is a bit of its own in the pageblock bitmap (``PB_migrate_isolate``).
    :ivar page: More of ``struct page``, ``None`` if the types don't tell.
    """

    release: str
    machine: str
    page_size: int
    word_bits: int
    byteorder: str
    memory_model: str
    page_struct_size: int
    flags_offset: int
    refcount_offset: int
    mapcount_offset: int
    pg_reserved: int
    flags: PageFlagsLayout
    max_nr_zones: int
    max_order: int
    pageblock_order: int
    pageblock_order_from: str
    bits_per_pageblock: int
    bits_from_top: bool
    pfn_section_shift: int | None
    zone_struct_size: int
    node_zones_offset: int
    pgdat_members: tuple[tuple[str, int], ...] = ()
    migratetypes: tuple[str, ...] = ()
    isolate_bit: bool = False
    page: PageMembers | None = None

    @property
    def pageblock_nr_pages(self) -> int:
        """Pages in a pageblock."""
        return 1 << self.pageblock_order

    @property
    def flatmem(self) -> bool:
        """Whether the memory model is FLATMEM, where zones have the pageblock bitmaps."""
        return self.memory_model == FLATMEM

    def link(self, node: int, zone: int) -> int:
        """
        Get the number by which arrays name a (node, zone ID) pair.

        It is the value of the node and zone fields of ``page->flags`` taken together.
        """
        return node << self.flags.zone.width | zone

    def node_zone(self, link: int) -> tuple[int, int]:
        """Get (node, zone ID) of a link."""
        width = self.flags.zone.width
        return link >> width, link & ((1 << width) - 1)


@dataclass(frozen=True)
class MemoryMap:
    """
    One kernel's nodes, zones and sections.

    :ivar zones: Every zone of every node with a pgdat, empty ones too, by (node, zone ID).
    :ivar sections: Ascending.
    :ivar phantom_zones: FLATMEM only: what the memory behind a node's zones would be taken for, by
        (node, zone ID out of the array), if it can be read.
    :ivar mem_sections: Every ``struct mem_section`` that isn't empty; none with FLATMEM.
    :ivar pfn_limit: Pfn behind the last that the machine can have, 0 if unknown.
    :ivar booted: Whether the kernel has left the boot behind it, ``None`` if that can't be told.
    :ivar per_cpu: Per-CPU lists, by zone and CPU; none where they were not read or can't be.
    """

    layout: Layout
    nodes: tuple[Node, ...]
    zones: tuple[Zone, ...]
    sections: Sequence[Section]
    phantom_zones: dict[tuple[int, int], Zone] = field(default_factory=dict)
    mem_sections: Sequence[SectionEntry] = ()
    pfn_limit: int = 0
    booted: bool | None = None
    per_cpu: tuple[PerCpuPages, ...] = field(default=(), compare=False, repr=False)

    def zone(self, node: int, index: int) -> Zone | None:
        """Get a zone, or ``None`` if the node is offline or the zone ID out of the array."""
        return self._zones_by_id.get((node, index))

    @cached_property
    def _zones_by_id(self) -> dict[tuple[int, int], Zone]:
        return {(z.node, z.index): z for z in self.zones}

    def node(self, nid: int) -> Node | None:
        """Get an online node, or ``None``."""
        return next((n for n in self.nodes if n.nid == nid), None)

    @property
    def populated_zones(self) -> list[Zone]:
        """The zones that span pages, by node and zone ID."""
        return [z for z in self.zones if z.spanned]

    @cached_property
    def contiguous_zones(self) -> list[Zone]:
        """The zones that span pages and are marked contiguous, by node and zone ID. Cached."""
        return [z for z in self.zones if z.contiguous and z.spanned]

    @cached_property
    def _section_starts(self) -> npt.NDArray[np.uint64]:
        """The first pfn of each section, a very large one if it has none. Ascending but for these."""
        nowhere = 1 << 63
        starts = (section.ranges[0][0] if section.ranges else nowhere for section in self.sections)
        # Those without a pfn take the place of their successor, so that the order holds.
        found = np.fromiter(starts, np.uint64, len(self.sections))
        result: npt.NDArray[np.uint64] = np.minimum.accumulate(found[::-1])[::-1]
        return result

    def section(self, pfn: int) -> Section | None:
        """Get the section of an online pfn, or ``None``."""
        if not 0 <= pfn < 1 << 63:
            return None
        at = int(self._section_starts.searchsorted(np.uint64(pfn), "right")) - 1
        if at < 0:
            return None
        section = self.sections[at]
        return section if any(start <= pfn < end for start, end in section.ranges) else None

    def online_ranges(self) -> Iterator[tuple[int, int]]:
        """Get the online pfns as half-open ranges, ascending. Those that touch are one."""
        first = last = 0
        for section in self.sections:
            for start, end in section.ranges:
                if start != last:
                    if first < last:
                        yield first, last
                    first = start
                last = end
        if first < last:
            yield first, last

    def zones_spanning(self, start: int, end: int) -> list[Zone]:
        """Get the zones that span any pfn of ``[start, end)``, by node and zone ID."""
        return [z for z in self.zones if z.spanned and z.start_pfn < end and start < z.end_pfn]

    def link_name(self, link: int) -> str:
        """Get a link in words, e.g. ``node 0 zone DMA32`` or ``node 0 zone id 5``."""
        node, index = self.layout.node_zone(link)
        zone = self.zone(node, index)
        return str(zone) if zone else f"node {node} zone id {index}"


class PerCpuBlocks(NamedTuple):
    """
    The blocks on all per-CPU lists, ascending.

    :ivar start: First pfn of each; likewise the next two.
    :ivar end: Pfn behind the last. Of a huge page, whose size the lists don't tell, this is its second.
    :ivar number: Index of its list.
    :ivar lists: The lists that have blocks.
    """

    start: npt.NDArray[np.uint64]
    end: npt.NDArray[np.uint64]
    number: npt.NDArray[np.intp]
    lists: list[tuple[PerCpuPages, PerCpuList]]


def per_cpu_blocks(memory: MemoryMap) -> PerCpuBlocks:
    """Put the blocks on all per-CPU lists in order."""
    lists = [(pages, item) for pages in memory.per_cpu for item in pages.lists if len(item.pfns)]
    lengths = [len(item.pfns) for _, item in lists]
    start = np.concatenate([np.zeros(0, np.uint64), *(item.pfns for _, item in lists)])
    sizes = np.array([1 << (item.order or 0) for _, item in lists], np.uint64)
    end = start + np.repeat(sizes, lengths)
    number = np.repeat(np.arange(len(lists)), lengths)
    by_start = np.lexsort((end, start))
    return PerCpuBlocks(start[by_start], end[by_start], number[by_start], lists)


Links = npt.NDArray[np.uint32]
States = npt.NDArray[np.uint8]

# States of a memmap entry.
INITIALIZED = 0
ZEROED = 1
POISONED = 2
STALE = 3
DEFERRED = 4
EXCLUDED = 5
NOT_EXPORTED = 6
UNMAPPED = 7
DAMAGED = 8
# Not an online page: a hole inside a pageblock.
OFFLINE = 9

UNINITIALIZED_KINDS = {ZEROED: "zeroed", POISONED: "poisoned", STALE: "stale", DEFERRED: "deferred"}
UNREADABLE_REASONS = {
    EXCLUDED: "excluded from the dump",
    NOT_EXPORTED: "not exported by kcore",
    UNMAPPED: "unmapped",
    DAMAGED: "damaged in the dump",
}


class Run(NamedTuple):
    """
    Adjacent pages of a chunk with the same link and state.

    :ivar start: First pfn.
    :ivar end: Pfn behind the last.
    """

    start: int
    end: int
    link: int
    state: int

    @property
    def judged(self) -> bool:
        """Whether the links of these pages mean anything: read, and not waiting for initialisation."""
        return self.state < DEFERRED


@dataclass(frozen=True)
class Chunk:
    """
    Part of the memmap: adjacent online pages, as columns.

    :ivar start_pfn: First pfn. Chunks begin and end at pageblock boundaries, except where the online
        memory does.
    :ivar flags: ``page->flags``, shape (pages,).
    :ivar link: Links (:meth:`Layout.link`), shape (pages,).
    :ivar state: One of the states above, shape (pages,).
    :ivar section: The section that all the pages are in, or several that are one to the memmap; see
        :func:`mminspect.layout.sections.stretches`.
    :ivar words: The struct pages themselves, in the kernel's byte order, shape (pages, words of one).
    """

    start_pfn: int
    flags: npt.NDArray[np.unsignedinteger]
    link: Links
    state: States
    section: Section
    words: npt.NDArray[np.unsignedinteger] | None = None

    @property
    def end_pfn(self) -> int:
        """Pfn behind the last."""
        return self.start_pfn + len(self.link)

    def part(self, start: int, end: int) -> Chunk:
        """Get some of the pages: those of ``[start, end)``."""
        part = slice(start - self.start_pfn, end - self.start_pfn)
        words = None if self.words is None else self.words[part]
        return Chunk(start, self.flags[part], self.link[part], self.state[part], self.section, words)

    def runs(self) -> list[Run]:
        """Get the chunk as runs of equal link and state. Cached."""
        cached = self.__dict__.get("_runs")
        if cached is None:
            cached = self._find_runs()
            self.__dict__["_runs"] = cached
        result: list[Run] = cached
        return result

    def set_runs(self, runs: list[Run]) -> None:
        """Tell the runs, where they are known without looking at every page."""
        self.__dict__["_runs"] = runs

    def digest(self) -> Digest:
        """Get what the struct pages have in common, those that are no pages or weren't read included. Cached."""
        cached = self.__dict__.get("_digest")
        if cached is None:
            assert self.words is not None
            cached = self.__dict__["_digest"] = digest(self.words)
        result: Digest = cached
        return result

    def set_digest(self, known: Digest) -> None:
        """Tell the digest."""
        self.__dict__["_digest"] = known

    def _find_runs(self) -> list[Run]:
        link, state = self.link, self.state
        changes = np.flatnonzero((link[1:] != link[:-1]) | (state[1:] != state[:-1])) + 1
        starts = np.concatenate(([0], changes))
        ends = np.concatenate((changes, [len(link)]))
        first = self.start_pfn
        return [
            Run(first + start, first + end, run_link, run_state)
            for start, end, run_link, run_state in zip(
                starts.tolist(), ends.tolist(), link[starts].tolist(), state[starts].tolist()
            )
        ]

    def reserved(self, layout: Layout, start: int, end: int) -> npt.NDArray[np.bool_]:
        """
        Tell which pages of ``[start, end)`` are PG_reserved. Cached for the whole chunk.

        :return: Shape (end - start,).
        """
        bits: npt.NDArray[np.bool_] | None = self.__dict__.get("_reserved")
        if bits is None:
            bits = self.flags & self.flags.dtype.type(1 << layout.pg_reserved) != 0
            self.__dict__["_reserved"] = bits
        return bits[start - self.start_pfn : end - self.start_pfn]
