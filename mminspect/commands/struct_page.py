# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One struct page: its words, its flags, the compound page that it is in.

It is read from memory that may be damaged.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import PageCompound, PageHead, PageSlab, PageTail, compound_head, compound_order

from mminspect.kernel.kernel import Kernel
from mminspect.kernel.resources import READ_ERRORS
from mminspect.layout.pagetypes import page_type
from mminspect.memorymap.sections import Section

# The low bits of page->mapping (include/linux/page-flags.h).
PAGE_MAPPING_ANON = 1
PAGE_MAPPING_MOVABLE = 2
PAGE_MAPPING_KSM = PAGE_MAPPING_ANON | PAGE_MAPPING_MOVABLE
# Flags that each page of a compound page has for itself.
OF_TAILS = ("PG_reserved", "PG_hwpoison", "PG_anon_exclusive")


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
    :ivar slab: Whether it is of a slab cache. ``None`` if unknown.
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


def page_address(kernel: Kernel, pfn: int, section: Section) -> int:
    """Return the address of a struct page."""
    layout = kernel.memory.layout
    return (section.mem_map + pfn * layout.page_struct_size) & ((1 << layout.word_bits) - 1)


def read_entry(kernel: Kernel, pfn: int, section: Section) -> Entry:
    """
    Read a struct page.

    :raises drgn.FaultError: if the target doesn't hold it.
    """
    layout = kernel.memory.layout
    page = Object(kernel.prog, "struct page *", page_address(kernel, pfn, section))
    data = kernel.memmap.entry(pfn, section)
    size = layout.word_bits // 8
    order = "<" if layout.byteorder == "little" else ">"
    words = struct.unpack(f"{order}{len(data) // size}{'Q' if size == 8 else 'I'}", data)
    (mapcount,) = struct.unpack_from(f"{order}i", data, layout.mapcount_offset)
    (refcount,) = struct.unpack_from(f"{order}i", data, layout.refcount_offset)
    try:
        slab = PageSlab(page)
    except READ_ERRORS:
        slab = None
    mapping = kernel.prog.type("struct page").member("mapping").offset // size
    kind = page_type(kernel.target, mapcount)
    return Entry(page, words, words[layout.flags_offset // size], refcount, mapcount, words[mapping], kind, slab)


def compound_page(kernel: Kernel, entry: Entry, section: Section) -> tuple[dict[str, Any] | None, Entry | None]:
    """
    Find the compound page that a page is in.

    :return: (``part``, ``head_pfn`` and ``order``, or ``None`` if it is in none; the entry of its head, ``None`` if it
        can't be read).
    """
    layout = kernel.memory.layout
    try:
        if not PageCompound(entry.page):
            return None, None
        head = compound_head(entry.page)
        head_pfn = (head.value_() - section.mem_map) % (1 << layout.word_bits) // layout.page_struct_size
        part = "head" if PageHead(entry.page) else "tail" if PageTail(entry.page) else "unknown"
        compound = {"part": part, "head_pfn": head_pfn, "order": compound_order(head).value_()}
        there = kernel.memory.section(head_pfn)
        return compound, read_entry(kernel, head_pfn, there) if there is not None else None
    except (LookupError, FaultError, AttributeError):
        # Garbage in the entry leads the helpers to memory that isn't there.
        return {"part": "unknown"}, None
