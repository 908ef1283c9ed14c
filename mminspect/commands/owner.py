# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who has a page: a free list, a slab cache, a page table, firmware, a resource.

All of it is read from memory that may be damaged. What can't be read or makes no sense is left out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from drgn import FaultError, Object, Program, cast
from drgn.helpers.linux.mm import PageSlab

from mminspect.layout.pagetypes import page_type
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.program.target import Target
from mminspect.typeinfo.lookup import enumerator

# Steps along a free list; a longer one is taken for a loop.
MAX_STEPS = 1 << 20
MAX_NAME = 64
# The low bits of page->mapping (include/linux/page-flags.h).
PAGE_MAPPING_ANON = 1
PAGE_MAPPING_MOVABLE = 2
PAGE_MAPPING_KSM = PAGE_MAPPING_ANON | PAGE_MAPPING_MOVABLE
# Flags that each page of a compound page has for itself.
OF_TAILS = ("PG_reserved", "PG_hwpoison", "PG_anon_exclusive")
_ERRORS = (FaultError, LookupError, AttributeError, ValueError, TypeError)


def flag_names(prog: Program, flags: int, kind: str | None, anon: bool, tail: bool) -> list[str]:
    """
    Name the flags of a page, each bit once.

    :param flags: ``page->flags``.
    :param kind: What :func:`page_type` returned.
    :param anon: Whether the page, or its head, is anonymous memory.
    :param tail: Whether the page is the tail of a compound page.
    """
    enumerators = [(item.name, int(item.value)) for item in prog.type("enum pageflags").enumerators or ()]
    # Behind __NR_PAGEFLAGS are other names of the same bits, each for some kinds of pages.
    count = [name for name, _ in enumerators].index("__NR_PAGEFLAGS")
    names = {bit: name for name, bit in reversed(enumerators[:count])}
    swap_backed = any(names[bit] == "PG_swapbacked" and flags >> bit & 1 for bit in names)
    aliases = {
        "PG_reported": kind == "buddy",
        "PG_anon_exclusive": anon,
        # folio_test_swapcache()
        "PG_swapcache": swap_backed and kind is None,
    }
    names.update({bit: name for name, bit in enumerators[count + 1 :] if aliases.get(name)})
    found = [names[bit] for bit in sorted(names) if flags >> bit & 1]
    # The other bits of tails are data of the compound page, such as its order in folio->_flags_1.
    return [name for name in found if name in OF_TAILS] if tail else found


@dataclass(frozen=True)
class Entry:
    """
    A struct page.

    :ivar page: ``struct page *``
    :ivar words: All of it.
    :ivar flags: ``page->flags``.
    :ivar refcount: ``_refcount``, signed.
    :ivar mapcount: ``_mapcount``, signed: one less than there are mappings.
    :ivar mapping: ``page->mapping``. It means something else in a page of a type or a slab cache, and in tails.
    :ivar kind: What :func:`page_type` returns.
    :ivar slab: Whether it is of a slab cache. ``None`` if that can't be told.
    """

    page: Object
    words: tuple[int, ...]
    flags: int
    refcount: int
    mapcount: int
    mapping: int
    kind: str | None
    slab: bool | None

    @property
    def anon(self) -> bool:
        """Whether it is anonymous memory (``PageAnon()``)."""
        return self.kind in (None, "hugetlb") and not self.slab and bool(self.mapping & PAGE_MAPPING_ANON)


def read_entry(target: Target, layout: Layout, page: Object, data: bytes) -> Entry:
    """
    Decode a struct page.

    :param page: ``struct page *``
    :param data: The bytes there.
    """
    size = layout.word_bits // 8
    order = "<" if layout.byteorder == "little" else ">"
    words = struct.unpack(f"{order}{len(data) // size}{'Q' if size == 8 else 'I'}", data)
    (mapcount,) = struct.unpack_from(f"{order}i", data, layout.page.mapcount_offset)
    (refcount,) = struct.unpack_from(f"{order}i", data, layout.page.refcount_offset)
    try:
        slab = PageSlab(page)
    except _ERRORS:
        slab = None
    mapping = target.prog.type("struct page").member("mapping").offset // size
    kind = page_type(target, mapcount)
    return Entry(page, words, words[layout.page.flags_offset // size], refcount, mapcount, words[mapping], kind, slab)


def holder(target: Target, entry: Entry) -> str | None:
    """
    Say in words who has a page that is not free.

    :param entry: Its struct page; of a compound page, that of the head.
    :return: ``None`` if nothing tells.
    """
    if entry.slab:
        cache = slab_cache(target.prog, entry.page)
        return f"slab cache {cache}" if cache else "a slab cache"
    if entry.kind == "kmemcg":
        return "in use by the kernel, charged to a memory cgroup"
    if entry.kind is not None:
        return "a page table" if "table" in entry.kind.split() else f"page type {entry.kind}"
    names = flag_names(target.prog, entry.flags, entry.kind, entry.anon, False)
    if "PG_reserved" in names:
        return "reserved: the kernel image, firmware or a hole"
    if entry.refcount <= 0 and "PG_lru" not in names:
        return None
    if entry.anon:
        ksm = entry.mapping & PAGE_MAPPING_KSM == PAGE_MAPPING_KSM
        return "anonymous memory, merged by KSM" if ksm else "anonymous memory"
    if entry.mapping & PAGE_MAPPING_MOVABLE:
        # Since Linux 6.17 such pages have a type, and the bit has no meaning of its own.
        if enumerator(target.prog, "enum pageflags", "PG_movable_ops") is None:
            return "in use by the kernel: a page of a driver that can move it"
    elif entry.mapping:
        kind = "shmem or tmpfs" if "PG_swapbacked" in names else "a file"
        operations = _mapping_operations(target.prog, entry.mapping)
        return f"the page cache: {kind}{f' ({operations})' if operations else ''}"
    if "PG_lru" in names:
        return "on the LRU lists, but of no mapping"
    return "in use by the kernel"


def _mapping_operations(prog: Program, mapping: int) -> str | None:
    """Get the name of the ``a_ops`` of a ``struct address_space``: which kind of file it is."""
    try:
        operations = Object(prog, "struct address_space", address=mapping).a_ops.value_()
        symbol = prog.symbol(operations)
        return symbol.name if symbol.address == operations else None
    except _ERRORS:
        return None


class FreeLists:
    """
    The heads of all free lists.

    :param memory: The kernel's memory map.
    """

    def __init__(self, prog: Program, memory: MemoryMap) -> None:
        self._prog = prog
        self._memory = memory
        self._word = memory.layout.word_bits // 8
        self._lru = prog.type("struct page").member("lru").offset
        self._heads: dict[int, tuple[str, int, str]] = {}
        names = memory.layout.migratetypes
        for zone in memory.zones:
            areas = Object(prog, "struct zone", address=zone.address).free_area
            for order in range(memory.layout.max_order + 1):
                lists = areas[order].free_list
                for index in range(len(lists)):
                    name = names[index] if index < len(names) else str(index)
                    address = lists[index].address_
                    assert address is not None
                    self._heads[address] = (str(zone), order, name)

    def find(self, page: int) -> dict[str, Any]:
        """
        Follow the links of a free page to the head of its list.

        :param page: Address of its struct page.
        :return: ``zone``, ``order`` and ``migratetype`` of the list, or ``broken``: what is wrong with the links.
        """
        start = page + self._lru
        node = start
        for _ in range(MAX_STEPS):
            following = 0
            try:
                following = self._prog.read_word(node)
                back = self._prog.read_word(following + self._word)
            except FaultError:
                return {"broken": f"the link at {node:#x} leads to {following:#x}, which can't be read"}
            if back != node:
                return {"broken": f"the list is torn at {node:#x}: its next, {following:#x}, points back to {back:#x}"}
            if following in self._heads:
                zone, order, name = self._heads[following]
                return {"zone": zone, "order": order, "migratetype": name}
            if following == start:
                return {"broken": "the links lead back to the page without a list's head"}
            node = following
        return {"broken": f"no head of a free list within {MAX_STEPS} links"}


def slab_cache(prog: Program, head: Object) -> str | None:
    """
    Get the name of the slab cache that has a page.

    :param head: ``struct page *``, the head if the page is compound.
    """
    try:
        try:
            # Since Linux 5.17 a slab has a type of its own in the place of its struct page.
            slab = cast("struct slab *", head)
        except LookupError:
            slab = head
        name: bytes = slab.slab_cache.name.string_()
        return name[:MAX_NAME].decode("ascii", "replace")
    except _ERRORS:
        return None
