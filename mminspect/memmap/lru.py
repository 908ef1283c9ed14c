# SPDX-License-Identifier: LGPL-2.1-or-later
"""
LRU lists (``struct lruvec``), those of multi-gen LRU too: each node has some for each memory cgroup.

Each list is followed page by page, never further than to the first page that can't be on it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from drgn import FaultError, Object, Type, sizeof

from mminspect.layout.zones import lock_is_held
from mminspect.memmap.page import flags_link
from mminspect.memmap.plain import PlainPages, half_word
from mminspect.memorymap.lru import LruCount, LruFault, LruList, LruLists, Lruvec
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.structpages import StructPages
from mminspect.memorymap.zones import Node
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator, has_type

# Pages that are followed in all lists together, and wrong ones after which a list is left.
MAX_FOLLOWED = 1 << 22
MAX_FAULTS = 64
# More memory cgroups than that are a loop.
MAX_MEMCGS = 1 << 20
# Of more lruvecs than that, a capture would have too many ranges.
MAX_CAPTURED = 1 << 12
# The largest compound page of any kernel.
MAX_COMPOUND_ORDER = 22

# ANON_AND_FILE
TYPES = ("anon", "file")
COUNTED = {
    "LRU_INACTIVE_ANON": "inactive anon",
    "LRU_ACTIVE_ANON": "active anon",
    "LRU_INACTIVE_FILE": "inactive file",
    "LRU_ACTIVE_FILE": "active file",
}
_ERRORS = (FaultError, LookupError, AttributeError, TypeError, ValueError, struct.error)


class _Head(NamedTuple):
    """
    Where a ``struct lruvec`` has the head of a list, and what its pages are.

    :ivar group: What is counted together: pages of one ``enum lru_list``, or of one type in all generations.
    :ivar flags: (mask, value) of ``page->flags``.
    :ivar zone: Zone ID of its pages, ``None`` for any.
    """

    name: str
    offset: int
    group: str
    flags: tuple[int, int]
    zone: int | None


class _Lruvec(NamedTuple):
    """Where a ``struct lruvec`` is, and its ``struct mem_cgroup_per_node`` if it is in one."""

    node: Node
    address: int
    memcg: int | None
    per_node: int | None


def with_lru_lists(target: Target, memory: MemoryMap) -> MemoryMap:
    """
    Read the LRU lists of a kernel.

    :return: The memory map with the lists that can be read.
    """
    return replace(memory, lru=_Reader(target, memory).read())


def read_heads(target: Target, memory: MemoryMap) -> None:
    """Read what tells where the LRU lists begin, so that it is in a capture; the first :data:`MAX_CAPTURED` of them."""
    reader = _Reader(target, memory)
    for lruvec in islice(reader.lruvecs(), MAX_CAPTURED):
        reader.touch(lruvec)


class _Reader:
    def __init__(self, target: Target, memory: MemoryMap) -> None:
        self._prog = target.prog
        self._memory = memory
        self._layout = memory.layout
        self._missing: str | None = None
        self._left = MAX_FOLLOWED
        self._pages = _Pages(target, memory)
        page = self._layout.page
        has_count = any(
            has_type(self._prog, name) and self._prog.type(name).has_member("mlock_count")
            for name in ("struct page", "struct folio")
        )
        # Since Linux kernel commit 07ca76067308 ("mm/munlock: maintain page->mlock_count while unevictable") (in
        # v5.18), unevictable pages are on no list.
        self._unlinked = page.flag("unevictable") if has_count else 0

    def read(self) -> LruLists:
        """Follow all lists."""
        found = []
        try:
            heads = self._heads()
        except _ERRORS:
            return LruLists((), "the types don't tell where a struct lruvec has its lists", self._unlinked)
        if any(node.first_deferred_pfn is not None for node in self._memory.nodes):
            return LruLists((), "struct pages still wait for their initialization", self._unlinked)
        for lruvec in self.lruvecs():
            try:
                found.append(self._lruvec(lruvec, heads))
            except _ERRORS:
                self._lack("the dump doesn't hold the struct lruvec of each node and memory cgroup")
        if not self._left:
            self._lack(f"more than {MAX_FOLLOWED} pages are on them")
        return LruLists(tuple(found), self._missing, self._unlinked)

    def _lack(self, why: str) -> None:
        if self._missing is None:
            self._missing = why

    def touch(self, lruvec: _Lruvec) -> None:
        """Read a ``struct lruvec``, and what counts its pages."""
        prog = self._prog
        try:
            prog.read(lruvec.address, sizeof(prog.type("struct lruvec")))
            self._locked(lruvec)
            if lruvec.per_node is not None:
                prog.read(lruvec.per_node, sizeof(prog.type("struct mem_cgroup_per_node")))
        except _ERRORS:
            return

    def lruvecs(self) -> Iterator[_Lruvec]:
        """Find the lruvec of each node, and of each memory cgroup on it."""
        prog = self._prog
        pgdat = prog.type("struct pglist_data")
        if not pgdat.has_member("__lruvec"):
            self._lack("the types don't tell where a struct pglist_data has its struct lruvec")
            return
        offset = pgdat.member("__lruvec").offset
        for node in self._memory.nodes:
            yield _Lruvec(node, node.address + offset, None, None)
        if not has_type(prog, "struct mem_cgroup"):
            return
        try:
            _ = prog["root_mem_cgroup"]
        except LookupError:
            self._lack("nothing tells where root_mem_cgroup is; --system-map or -s does")
            return
        try:
            inside = prog.type("struct mem_cgroup_per_node").member("lruvec").offset
            for memcg in self._memcgs():
                for node in self._memory.nodes:
                    per_node = self._per_node(memcg, node.nid)
                    if per_node:
                        yield _Lruvec(node, per_node + inside, memcg, per_node)
        except _ERRORS:
            self._lack("the memory cgroups can't be found, or the dump doesn't hold them")

    def _per_node(self, memcg: int, nid: int) -> int:
        word = self._layout.word_bits // 8
        offset = self._prog.type("struct mem_cgroup").member("nodeinfo").offset
        return int(self._prog.read_word(memcg + offset + nid * word))

    def _memcgs(self) -> Iterator[int]:
        """
        Find the memory cgroups, dying ones too: they are among their parent's children until nothing refers to them.

        :raises drgn.FaultError: if the target doesn't hold them all.
        """
        prog = self._prog
        css = prog.type("struct mem_cgroup").member("css").offset
        state = prog.type("struct cgroup_subsys_state")
        children, sibling = state.member("children").offset, state.member("sibling").offset
        root = prog["root_mem_cgroup"].value_()
        if not root:
            raise LookupError("root_mem_cgroup")
        left = MAX_MEMCGS
        waiting = [root]
        while waiting:
            memcg = waiting.pop()
            yield memcg
            head = memcg + css + children
            entry = prog.read_word(head)
            while entry != head:
                left -= 1
                if left < 0:
                    raise LookupError("more memory cgroups than can be")
                waiting.append(entry - sibling - css)
                entry = prog.read_word(entry)

    def _heads(self) -> list[_Head]:
        """Get the lists of a ``struct lruvec`` whose pages are linked."""
        prog, page = self._prog, self._layout.page
        type_ = prog.type("struct lruvec")
        size = sizeof(prog.type("struct list_head"))
        anon, active, unevictable = page.flag("swapbacked"), page.flag("active"), page.flag("unevictable")
        mask = anon | active | unevictable
        found = []
        lists = type_.member("lists").offset
        values = (anon, anon | active, 0, active)
        kinds = [(name, text, (mask, value)) for (name, text), value in zip(COUNTED.items(), values)]
        if not self._unlinked:
            kinds.append(("LRU_UNEVICTABLE", "unevictable", (unevictable, unevictable)))
        for name, text, flags in kinds:
            index = enumerator(prog, "enum lru_list", name)
            if index is None:
                raise LookupError(name)
            found.append(_Head(text, lists + index * size, str(index), flags, None))
        if type_.has_member("lrugen"):
            found += self._generations(size, anon, unevictable)
        return found

    def _generations(self, size: int, anon: int, unevictable: int) -> Iterator[_Head]:
        """Get the lists of multi-gen LRU. A page's own generation may be a younger one than its list's."""
        lrugen = self._prog.type("struct lruvec").member("lrugen")
        # Since Linux kernel commit 6df1b2212950 ("mm: multi-gen LRU: rename lrugen->lists[] to lrugen->folios[]") (in
        # v6.3), it is folios.
        name = "folios" if lrugen.type.has_member("folios") else "lists"
        member = lrugen.type.member(name)
        zones, types = self._layout.max_nr_zones, len(TYPES)
        # [MAX_NR_GENS][ANON_AND_FILE][MAX_NR_ZONES], which BTF has as one dimension.
        gens, rest = divmod(sizeof(member.type), size * types * zones)
        if rest:
            raise LookupError(name)
        start = lrugen.offset + member.offset
        for gen in range(gens):
            for kind, text in enumerate(TYPES):
                for zone in range(zones):
                    offset = start + ((gen * types + kind) * zones + zone) * size
                    flags = (anon | unevictable, 0 if kind else anon)
                    yield _Head(f"generation {gen} {text}", offset, f"gen {kind}", flags, zone)

    def _locked(self, lruvec: _Lruvec) -> bool | None:
        """Tell whether somebody may be changing the lists."""
        # Since Linux kernel commit 6168d0da2b47 ("mm/lru: replace pgdat lru_lock with lruvec lock") (in v5.11), each
        # lruvec has a lock.
        if self._prog.type("struct lruvec").has_member("lru_lock"):
            return lock_is_held(Object(self._prog, "struct lruvec", address=lruvec.address).lru_lock.read_())
        return lock_is_held(Object(self._prog, "struct pglist_data", address=lruvec.node.address).lru_lock.read_())

    def _lruvec(self, where: _Lruvec, heads: list[_Head]) -> Lruvec:
        """
        Follow the lists of one lruvec.

        :raises drgn.FaultError: if the target doesn't hold it.
        """
        word = self._layout.word.itemsize
        size = sizeof(self._prog.type("struct lruvec"))
        words = struct.unpack(
            f"{self._layout.order}{size // word}{'QI'[word == 4]}", self._prog.read(where.address, size)
        )
        locked = self._locked(where)
        lists = []
        sums: dict[str, list[int] | None] = {}
        for head in heads:
            at, first = where.address + head.offset, words[head.offset // word]
            item, pages = self._pages.follow(where.node, head, at, first, self._left)
            self._left -= len(item.pfns)
            if len(item.pfns) or item.faults or not item.complete:
                lists.append(item)
            known = sums.setdefault(head.group, [0] * self._layout.max_nr_zones)
            if known is not None and pages is not None and item.complete:
                sums[head.group] = [a + b for a, b in zip(known, pages)]
            else:
                sums[head.group] = None
        counts = tuple(self._counts(where, sums)) if locked is False else ()
        return Lruvec(where.node.nid, where.address, where.memcg, locked, tuple(lists), counts)

    def _counts(self, where: _Lruvec, sums: dict[str, list[int] | None]) -> Iterator[LruCount]:
        """Compare what the kernel counts of one lruvec with what is on its lists."""
        prog, zones = self._prog, self._layout.max_nr_zones
        kinds = enumerator(prog, "enum lru_list", "NR_LRU_LISTS")
        if where.per_node is not None and kinds:
            # [MAX_NR_ZONES][NR_LRU_LISTS]
            sizes = self._longs("struct mem_cgroup_per_node", where.per_node, "lru_zone_size")
            for name, text in COUNTED.items():
                index = enumerator(prog, "enum lru_list", name)
                counted = sums.get(str(index))
                if index is not None and counted is not None and len(sizes) == zones * kinds:
                    for zone in range(zones):
                        yield LruCount(text, zone, sizes[zone * kinds + index], counted[zone])
        if not prog.type("struct lruvec").has_member("lrugen"):
            return
        lrugen = prog.type("struct lruvec").member("lrugen")
        counts = self._longs(lrugen.type, where.address + lrugen.offset, "nr_pages")
        for kind, text in enumerate(TYPES):
            counted = sums.get(f"gen {kind}")
            if counted is not None and len(counts) % (zones * len(TYPES)) == 0:
                for zone in range(zones):
                    # The aging moves pages between generations in batches, so only their sum is exact.
                    total = sum(counts[kind * zones + zone :: zones * len(TYPES)])
                    yield LruCount(f"{text} of all generations", zone, total, counted[zone])

    def _longs(self, type_: Type | str, address: int, name: str) -> tuple[int, ...]:
        """Read a member that is an array of ``long``, of any dimensions; none if there is no such member."""
        type_ = self._prog.type(type_) if isinstance(type_, str) else type_
        if not type_.has_member(name):
            return ()
        member = type_.member(name)
        word = self._layout.word.itemsize
        number = sizeof(member.type) // word
        data = self._prog.read(address + member.offset, number * word)
        return struct.unpack(f"{self._layout.order}{number}{'qi'[word == 4]}", data)


class _Pages:
    """Follows lists of pages."""

    def __init__(self, target: Target, memory: MemoryMap) -> None:
        layout = self._layout = memory.layout
        self._struct_pages = StructPages(memory)
        self._plain = PlainPages(target.prog, memory, target.direct)
        word = layout.word.itemsize
        self._words = struct.Struct(f"{layout.order}{layout.page.size // word}{'QI'[word == 4]}")
        self._refcount = half_word(layout, layout.page.refcount_offset)
        self._mapcount = half_word(layout, layout.page.mapcount_offset)

    def follow(self, node: Node, head: _Head, at: int, first: int, limit: int) -> tuple[LruList, list[int] | None]:
        """
        Follow a list.

        :param at: Address of its head.
        :param first: What follows it.
        :param limit: So many pages at most.
        :return: The list, and how many pages of each zone are on it, ``None`` if that isn't known.
        """
        layout, page = self._layout, self._layout.page
        lru, word = page.lru_offset, layout.word.itemsize
        flags_at, next_at = page.flags_offset // word, lru // word
        mask, wanted = head.flags
        zones = layout.flags.zone
        pages: list[int] | None = [0] * layout.max_nr_zones
        faults: list[LruFault] = []
        pfns: list[int] = []
        seen: set[int] | None = None
        here, following, last = at, first, None
        complete = False
        while len(faults) < MAX_FAULTS:
            if following == at:
                complete = True
                break
            found = self._struct_pages.find(following - lru)
            if found is None or found.offset:
                faults.append(LruFault("link", last, following))
                break
            pfn = found.pfn
            if seen is not None and pfn in seen:
                faults.append(LruFault("cycle", last, pfn))
                break
            if len(pfns) >= limit:
                break
            try:
                words = self._words.unpack(self._plain.read(following - lru, page.size))
            except _ERRORS:
                break
            flags = words[flags_at]
            why = self._free_because(pfn, words)
            if why is not None:
                # Its links are those of something else.
                faults.append(why)
                break
            if words[next_at + 1] != here:
                # As long as each page leads back to where the list came from, none can come twice.
                seen = seen or set(pfns)
                if pfn in seen:
                    faults.append(LruFault("cycle", last, pfn))
                    break
                faults.append(LruFault("prev", pfn, words[next_at + 1]))
            link = flags_link(layout, flags, node.nid)
            if layout.node_zone(link)[0] != node.nid:
                faults.append(LruFault("node", pfn, link))
            zone = flags >> zones.shift & zones.mask if zones.width else 0
            # Who takes a page off clears PG_lru first, and then waits for the lock.
            if flags & page.lru and (flags & mask != wanted or head.zone not in (None, zone)):
                faults.append(LruFault("list", pfn, flags))
            number = self._nr_pages(following - lru, flags)
            if pages is not None and number and zone < len(pages):
                pages[zone] += number
            else:
                pages = None
            pfns.append(pfn)
            if seen is not None:
                seen.add(pfn)
            here, following, last = following, words[next_at], pfn
        if complete:
            back = self._back(at)
            if back is None:
                complete = False
            elif back != here:
                faults.append(LruFault("prev", None, back))
        item = LruList(head.name, np.array(pfns, np.uint64), tuple(faults), complete)
        return item, pages

    def _free_because(self, pfn: int, words: tuple[int, ...]) -> LruFault | None:
        """Tell why a page can't be in use, if it can't."""
        page = self._layout.page
        at, mask, shift = self._mapcount
        if page.buddy is not None and words[at] & mask == page.buddy << shift:
            return LruFault("free", pfn, (words[at] & mask) >> shift)
        at, mask, shift = self._refcount
        # Who frees a page takes it off before PG_lru is cleared, and who isolates it holds a reference.
        if not words[at] & mask and not words[page.flags_offset // self._layout.word.itemsize] & page.lru:
            return LruFault("free", pfn, 0)
        return None

    def _nr_pages(self, address: int, flags: int) -> int:
        """Get the number of pages of a folio, 0 if nothing tells."""
        page = self._layout.page
        if not flags & page.flag("head"):
            return 1
        try:
            order = self._plain.read(address + page.size + page.order_offset, 1)[0]
        except _ERRORS:
            return 0
        return 1 << order if 0 < order <= MAX_COMPOUND_ORDER else 0

    def _back(self, head: int) -> int | None:
        """Read the ``prev`` of a list's head."""
        word = self._layout.word.itemsize
        try:
            return int.from_bytes(self._plain.read(head + word, word), self._layout.byteorder)
        except _ERRORS:
            return None
