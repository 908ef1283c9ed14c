# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Per-CPU lists: free pages that each CPU keeps of each zone (``struct per_cpu_pages``).

Their pages are not ``PageBuddy()``; only the lists tell which they are. Each list is followed page by page, never
further than to the first page that can't be on it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, Program, sizeof

from mminspect.layout.zones import lock_is_held
from mminspect.memmap.page import Page, decode_page, flags_link
from mminspect.memmap.plain import PlainPages
from mminspect.memorymap.layout import PER_CPU_LISTS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.memorymap.percpu import ListFault, PerCpuList, PerCpuPages
from mminspect.memorymap.structpages import StructPages
from mminspect.memorymap.zones import Zone
from mminspect.program.arch import arch_of
from mminspect.program.direct import DirectMemory
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator

# Pages that are followed in all lists together.
MAX_FOLLOWED = 1 << 19
# Wrong pages after which a list is left.
MAX_FAULTS = 64
# CPUs that a kernel can have; a mask with more of them is damaged.
MAX_CPUS = 1 << 16

# Orders up to PAGE_ALLOC_COSTLY_ORDER have a list per migratetype.
PAGE_ALLOC_COSTLY_ORDER = 3

_ERRORS = (FaultError, LookupError, AttributeError, TypeError, ValueError)


def with_per_cpu_pages(target: Target, memory: MemoryMap) -> MemoryMap:
    """
    Read the per-CPU lists of a kernel.

    :return: The memory map with the lists that can be read.
    """
    layout = memory.layout
    if layout.page.buddy is None or layout.why_unknown(PER_CPU_LISTS):
        return memory
    try:
        bases = _per_cpu_bases(target.prog)
        pagesets = dict(_pagesets(target.prog, memory))
    except _ERRORS:
        return memory
    walker = Walker(target.prog, memory, target.direct)
    found = []
    for zone, pageset in pagesets.items():
        for cpu, base in bases:
            address = (pageset + base) & layout.address_mask
            try:
                found.append(walker.per_cpu_pages(zone, cpu, address))
            except _ERRORS:
                continue
    return replace(memory, per_cpu=tuple(found))


def _per_cpu_bases(prog: Program) -> list[tuple[int, int]]:
    """
    Get what is added to a per-CPU pointer for each possible CPU.

    :return: List of (CPU, offset). Without SMP there is one CPU, and pointers are plain.
    """
    if not sizeof(prog.type("arch_spinlock_t")):
        return [(0, 0)]
    offsets = prog["__per_cpu_offset"]
    mask = prog["__cpu_possible_mask"].bits.read_()
    word_bits = 8 * sizeof(prog.type("unsigned long"))
    limit = min(len(offsets), MAX_CPUS)
    possible = (
        index * word_bits + bit
        for index, word in enumerate(word.value_() for word in mask)
        for bit in range(word_bits)
        if word >> bit & 1
    )
    return [(cpu, offsets[cpu].value_()) for cpu in possible if cpu < limit]


def _pagesets(prog: Program, memory: MemoryMap) -> Iterator[tuple[Zone, int]]:
    """
    Find the per-CPU pointer of each zone that has pages.

    Zones share boot_pageset until setup_per_cpu_pageset() gives each its own; then their lists say nothing of a zone.
    """
    # Since Linux kernel commit 28f836b6777b ("mm/page_alloc: split per cpu page lists and zone stats") (in v5.14), it
    # is per_cpu_pageset.
    name = "per_cpu_pageset" if prog.type("struct zone").has_member("per_cpu_pageset") else "pageset"
    pointers: dict[Zone, int] = {}
    for zone in memory.populated_zones:
        if zone.present:
            pointers[zone] = Object(prog, "struct zone", address=zone.address).member_(name).value_()
    values = list(pointers.values())
    for zone, value in pointers.items():
        if value and values.count(value) == 1:
            yield zone, value


class Walker:
    """
    Follows lists.

    :param memory: The kernel's memory map, which says what a free page looks like.
    :param direct: Reads a vmcore faster than drgn does, where that can be done.
    """

    def __init__(self, prog: Program, memory: MemoryMap, direct: DirectMemory | None = None) -> None:
        layout = memory.layout
        self._prog = prog
        self._memory = memory
        self._layout = layout
        self._lru = layout.page.lru_offset
        self._two_words = struct.Struct(layout.order + ("QQ" if layout.word_bits == 64 else "II"))
        self._pcptypes = enumerator(prog, "enum migratetype", "MIGRATE_PCPTYPES") or 1
        self._left = MAX_FOLLOWED
        self._struct_pages = StructPages(memory)
        self._plain = PlainPages(prog, memory, direct)
        self._deferred = [
            (node.first_deferred_pfn, node.start_pfn + node.spanned)
            for node in memory.nodes
            if node.first_deferred_pfn is not None
        ]

    def per_cpu_pages(self, zone: Zone, cpu: int, address: int) -> PerCpuPages:
        """
        Read one CPU's lists of a zone.

        :raises drgn.FaultError: if the target doesn't hold them.
        """
        prog = self._prog
        if prog.type("struct zone").has_member("per_cpu_pageset"):
            pages = Object(prog, "struct per_cpu_pages", address=address)
        else:
            pages = Object(prog, "struct per_cpu_pageset", address=address).pcp
        value = pages.read_()
        heads = pages.lists
        base = heads.address_
        assert base is not None
        step = sizeof(prog.type("struct list_head"))
        count = value.count.value_()
        lists = tuple(self._list(zone, index, base + index * step) for index in range(len(heads)))
        order = self._huge_order(count, lists)
        if order is not None:
            lists = tuple(self._of_order(zone, item, order) if item.order is None else item for item in lists)
        # Since Linux kernel commit 4b23a68f9536 ("mm/page_alloc: protect PCP lists with a spinlock") (in v6.0), they
        # have a lock. Before, a CPU changes its own with interrupts off.
        locked = lock_is_held(value.lock) if value.type_.has_member("lock") else None
        return PerCpuPages(cpu, zone.node, zone.index, count, locked, lists)

    def _list(self, zone: Zone, index: int, head: int) -> PerCpuList:
        """Follow the list of a ``pindex``, as ``pindex_to_order()`` has it."""
        names = self._layout.migratetypes
        kind = index % self._pcptypes
        order: int | None = index // self._pcptypes
        migratetype = names[kind] if kind < len(names) else str(kind)
        if order is not None and order > PAGE_ALLOC_COSTLY_ORDER:
            # Lists of huge pages: one for each migratetype (5.14), one in all (6.0), one more for movable pages (6.10).
            order = None
            migratetype = "huge pages"
        pfns, faults, complete = self.follow(zone, head, order or 0)
        return PerCpuList(order, migratetype, np.array(pfns, np.uint64), tuple(faults), complete)

    def _huge_order(self, count: int, lists: Sequence[PerCpuList]) -> int | None:
        """
        Get the order of the blocks on lists of huge pages, as ``pindex_to_order()`` has it.

        It is ``pageblock_order``, and in newer kernels ``HPAGE_PMD_ORDER``. Stable kernels have either, so where these
        differ, ``count`` decides.

        :return: ``None`` if nothing tells.
        """
        layout = self._layout
        page_shift = layout.page_size.bit_length() - 1
        huge = arch_of(self._prog.platform).huge_page_order(self._prog, page_shift)
        orders = {layout.pageblock_order, layout.pageblock_order if huge is None else huge}
        if len(orders) == 1:
            return orders.pop()
        if not all(item.complete for item in lists):
            return None
        small = sum(len(item.pfns) << item.order for item in lists if item.order is not None)
        blocks = sum(len(item.pfns) for item in lists if item.order is None)
        fitting = [order for order in orders if blocks and small + (blocks << order) == count]
        return fitting[0] if len(fitting) == 1 else None

    def _of_order(self, zone: Zone, item: PerCpuList, order: int) -> PerCpuList:
        """Give a list of huge pages its order, and look at all of their pages."""
        faults = [*item.faults, *(fault for pfn in item.pfns.tolist() for fault in self._rest(zone, pfn, order))]
        return item._replace(order=order, faults=tuple(faults[:MAX_FAULTS]))

    def _rest(self, zone: Zone, pfn: int, order: int) -> Iterator[ListFault]:
        """Find out which pages behind a block's first can't be in it. That none is PageBuddy, the walk tells."""
        layout = self._layout
        count = (1 << order) - 1
        section = self._memory.section(pfn)
        if not count or section is None or self._left < count:
            return
        self._left -= count
        address = pfn_to_page(layout, section, pfn + 1)
        try:
            data = self._prog.read(address, count * layout.page.size)
        except FaultError:
            return
        entries = np.frombuffer(data, np.uint8).reshape(count, layout.page.size)

        def column(offset: int, kind: np.dtype[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
            return np.ascontiguousarray(entries[:, offset : offset + kind.itemsize]).view(kind)[:, 0]

        refcounts = column(layout.page.refcount_offset, layout.uint)
        flags = column(layout.page.flags_offset, layout.word)
        for index in np.flatnonzero(refcounts).tolist():
            yield ListFault("references", pfn + 1 + index, int(refcounts[index]), True)
        # Most blocks have the same node and zone in all of their pages.
        for value in (flags[:1] if (flags == flags[:1]).all() else np.unique(flags)).tolist():
            link = flags_link(layout, value, zone.node)
            if link != layout.link(zone.node, zone.index):
                for index in np.flatnonzero(flags == value).tolist():
                    yield ListFault("zone", pfn + 1 + index, link, True)

    def _pfn(self, node: int) -> int | None:
        """Get the pfn of the online page whose ``lru`` is at an address."""
        found = self._struct_pages.find(node - self._lru)
        return None if found is None or found.offset else found.pfn

    def follow(self, zone: Zone, head: int, order: int = 0) -> tuple[list[int], list[ListFault], bool]:
        """
        Follow a list from its head.

        :param order: Of its blocks.
        :return: Its pfns, what is wrong, and whether the end was reached.
        """
        faults: list[ListFault] = []
        first, first_back = self._two_words.unpack(self._prog.read(head, self._two_words.size))
        pfns, here, following = self._start(zone, head, first, order)
        last = pfns[-1] if pfns else None
        # Of a list that ends here, no page is looked for again.
        seen = set(pfns) if following != head else set()
        while following != head:
            pfn = self._pfn(following)
            if pfn is None:
                return pfns, [*faults, ListFault("link", last, following)], False
            if pfn in seen:
                return pfns, [*faults, ListFault("cycle", last, following)], False
            if any(low <= pfn < high for low, high in self._deferred):
                # Entries there may wait for their initialization, and are not judged.
                return pfns, faults, False
            if not self._left or len(faults) >= MAX_FAULTS:
                return pfns, faults, False
            self._left -= 1
            try:
                entry = self._prog.read(following - self._lru, self._layout.page.size)
            except FaultError:
                return pfns, faults, False
            page = decode_page(self._layout, pfn, entry, 0)
            after, back = page.lru_next, page.lru_prev
            fault = self._wrong_because(zone, page)
            if fault is not None:
                linked = back == here and self._back(after) == following
                faults.append(fault._replace(linked=linked))
                if fault.problem != "zone":
                    # Its links are those of something else.
                    return pfns, faults, False
            if back != here:
                faults.append(ListFault("prev", pfn, back))
            if order:
                faults.extend(self._rest(zone, pfn, order))
            pfns.append(pfn)
            seen.add(pfn)
            here, last, following = following, pfn, after
        if first_back != here:
            faults.append(ListFault("prev", None, first_back))
        return pfns, faults, True

    def _start(self, zone: Zone, head: int, first: int, order: int) -> tuple[list[int], int, int]:
        """
        Follow a list as long as nothing is wrong with it: nearly always to its end.

        :return: Pfns, the entry that was reached, and what follows it.
        """
        if not self._deferred:
            pfns, here, following = self._plain.follow(zone, head, first, self._left >> order)
            if not order or self._plain.are_plain_behind(zone, pfns, order):
                self._left -= len(pfns) << order
                return pfns, here, following
        return [], head, first

    def _back(self, node: int) -> int | None:
        """Read the ``prev`` of a list entry."""
        try:
            return int(self._two_words.unpack(self._prog.read(node, self._two_words.size))[1])
        except FaultError:
            return None

    def _wrong_because(self, zone: Zone, page: Page) -> ListFault | None:
        """Say why a page can't be on a list of a zone, if it can't."""
        if page.buddy:
            return ListFault("buddy", page.pfn, page.mapcount)
        if page.refcount:
            return ListFault("references", page.pfn, page.refcount)
        link = flags_link(self._layout, page.flags, zone.node)
        return None if link == self._layout.link(zone.node, zone.index) else ListFault("zone", page.pfn, link)
