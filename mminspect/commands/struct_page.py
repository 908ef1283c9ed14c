# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One struct page: its words, its flags, the compound page that it is in.

It is read from memory that may be damaged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from drgn import FaultError, Object, Program, sizeof
from drgn.helpers.linux.mm import PageCompound, PageHead, PageSlab, PageTail, compound_head, compound_order

from mminspect.kernel.kernel import Kernel
from mminspect.kernel.resources import READ_ERRORS
from mminspect.layout.pagetypes import page_type
from mminspect.memmap.page import Page, decode_page
from mminspect.memorymap.mmzone import page_to_pfn, pfn_to_page
from mminspect.memorymap.sections import Section
from mminspect.typeinfo.lookup import enumerator

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


class Entry(NamedTuple):
    """
    A struct page, and what its kind is.

    :ivar pointer: ``struct page *``
    :ivar page: What is in it.
    :ivar kind: What :func:`page_type` returns.
    :ivar slab: Whether it is of a slab cache. ``None`` if unknown.
    """

    pointer: Object
    page: Page
    kind: str | None
    slab: bool | None

    @property
    def anon(self) -> bool:
        """Whether it is anonymous memory (``PageAnon()``)."""
        return self.kind in (None, "hugetlb") and not self.slab and bool(self.page.mapping & PAGE_MAPPING_ANON)


def read_entry(kernel: Kernel, pfn: int, section: Section) -> Entry:
    """
    Read a struct page.

    :raises drgn.FaultError: if the target doesn't hold it.
    """
    layout = kernel.memory.layout
    pointer = Object(kernel.prog, "struct page *", pfn_to_page(layout, section, pfn))
    page = decode_page(layout, pfn, kernel.memmap.entry(pfn, section), 0)
    try:
        slab = PageSlab(pointer)
    except READ_ERRORS:
        slab = None
    return Entry(pointer, page, page_type(layout.page.types, page.mapcount), slab)


def is_hugetlb(kernel: Kernel, entry: Entry) -> bool:
    """
    Tell whether a page is the head of a huge page of hugetlb, free or in use.

    It was a destructor until Linux 6.5, then a flag in the second page, and since Linux kernel commit d99e3140a4d3
    ("mm: turn folio_test_hugetlb into a PageType") (in v6.9) it is a page type. Stable kernels have that, too, so the
    enumerators decide.
    """
    if entry.kind is not None:
        return "hugetlb" in entry.kind.split()
    prog = kernel.prog
    if not entry.page.flags & kernel.memory.layout.page.flag("head"):
        return False
    destructor = enumerator(prog, "enum compound_dtor_id", "HUGETLB_PAGE_DTOR")
    flag = enumerator(prog, "enum pageflags", "PG_hugetlb")
    head = entry.pointer.value_()
    try:
        if destructor is not None:
            page = prog.type("struct page")
            if page.has_member("compound_dtor"):
                at = sizeof(page) + page.member("compound_dtor").offset
            else:
                at = prog.type("struct folio").member("_folio_dtor").offset
            return int(prog.read_u8(head + at)) == destructor
        if flag is not None:
            return bool(prog.read_word(head + prog.type("struct folio").member("_flags_1").offset) >> flag & 1)
    except (LookupError, FaultError):
        pass
    return False


def compound_page(kernel: Kernel, entry: Entry, section: Section) -> tuple[dict[str, Any] | None, Entry | None]:
    """
    Find the compound page that a page is in.

    :return: (``part``, ``head_pfn`` and ``order``, or ``None`` if it is in none; the entry of its head, ``None`` if it
        can't be read).
    """
    try:
        if not PageCompound(entry.pointer):
            return None, None
        head = compound_head(entry.pointer)
        head_pfn = page_to_pfn(kernel.memory.layout, section, head.value_())
        part = "head" if PageHead(entry.pointer) else "tail" if PageTail(entry.pointer) else "unknown"
        compound = {"part": part, "head_pfn": head_pfn, "order": compound_order(head).value_()}
        there = kernel.memory.section(head_pfn)
        return compound, read_entry(kernel, head_pfn, there) if there is not None else None
    except (LookupError, FaultError, AttributeError):
        # Garbage in the entry leads the helpers to memory that isn't there.
        return {"part": "unknown"}, None
