# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each page is, one page at a time, for tests of the picture."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from typing import Any

from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import PageLRU, PageReserved, PageSlab, PageSwapBacked, PageTail, compound_head

from tests.kit import structpages
from tests.kit.structpages import Machine

FLAGS = ("locked", "referenced", "uptodate", "dirty", "lru", "active", "head", "swapbacked", "slab")
FLAGS += ("f9", "f10", "f11", "f12", "reserved", "hwpoison")
LRU, HEAD, SWAPBACKED, SLAB, RESERVED = (
    FLAGS.index(name) for name in ("lru", "head", "swapbacked", "slab", "reserved")
)
TABLE_TYPE, SLAB_TYPE, OFFLINE_TYPE = 0xF2000000, 0xF5000000, 0xF1000000
# The byte of the second entry that says what a compound page is, and its value for hugetlb.
DESTRUCTOR, HUGETLB_DTOR = 0x18, 2

LAYOUT = dataclasses.replace(
    structpages.LAYOUT,
    page=dataclasses.replace(
        structpages.MEMBERS,
        flag_names=FLAGS,
        types=(
            ("buddy", 0xFF000000, 0xF0000000),
            ("offline", 0xFF000000, OFFLINE_TYPE),
            ("table", 0xFF000000, TABLE_TYPE),
            ("slab", 0xFF000000, SLAB_TYPE),
        ),
        hugetlb=(DESTRUCTOR, 0xFF, HUGETLB_DTOR),
    ),
)
STATES = ("", "zeroed", "poisoned", "stale", "deferred", "excluded", "not exported", "unmapped", "damaged", "absent")


def expected(machine: Machine) -> list[str]:
    """Say what each page of a machine is."""
    names: list[str] = []
    block_end, order = 0, 0
    for pfn in range(len(machine.link)):
        entry = machine.words[pfn].tobytes()
        (mapcount,) = struct.unpack_from("<I", entry, 0x30)
        (private,) = struct.unpack_from("<Q", entry, 40)
        whole = private <= machine.layout.max_order and pfn % (1 << private) == 0
        if pfn >= block_end and mapcount == 0xF0000000 and whole and not machine.state[pfn]:
            block_end, order = pfn + (1 << private), private
        if machine.state[pfn]:
            names.append(STATES[machine.state[pfn]])
        elif pfn < block_end:
            names.append(f"free {order}")
        else:
            names.append(_of_entry(machine, pfn, entry))
    return names


def _of_entry(machine: Machine, pfn: int, entry: bytes) -> str:
    """Say what a page is that isn't free."""
    flags, lead = struct.unpack_from("<QQ", entry, 0)
    if lead & 1:
        head = (lead - 1 - structpages.VMEMMAP) // 64
        if head >= pfn or machine.state[head]:
            return "compound"
        above = machine.words[head].tobytes()
        is_tail = struct.unpack_from("<Q", above, 8)[0] & 1
        return "compound" if is_tail else _of_entry(machine, head, above)
    (mapcount,) = struct.unpack_from("<I", entry, 0x30)
    if flags >> RESERVED & 1:
        return "reserved"
    by_type = {TABLE_TYPE: "page table", SLAB_TYPE: "slab", OFFLINE_TYPE: "offline"}
    if mapcount & 0xFF000000 in by_type and mapcount != 0xFFFFFFFF:
        return by_type[mapcount & 0xFF000000]
    if flags >> SLAB & 1:
        return "slab"
    if flags >> HEAD & 1 and machine.words[pfn + 1].tobytes()[DESTRUCTOR] == HUGETLB_DTOR:
        return "hugetlb"
    if flags >> LRU & 1:
        return "anon" if flags >> SWAPBACKED & 1 else "file"
    return "compound" if flags >> HEAD & 1 else "unknown"


def drgn_names(prog: Program, pages: Sequence[tuple[int, int]], buddy: int, max_order: int) -> dict[int, str]:
    """
    Say what pages of a kernel are, as far as drgn's helpers tell: one object for each.

    :param pages: (pfn, address of its struct page), ascending.
    :param buddy: ``_mapcount`` of free pages.
    """
    names: dict[int, str] = {}
    block_end, order = 0, 0
    for pfn, address in pages:
        page = Object(prog, "struct page *", address)
        try:
            is_buddy = (page._mapcount.counter.value_() ^ buddy) & 0xFFFFFFFF == 0
            if pfn >= block_end and is_buddy and page.private.value_() <= max_order:
                order = page.private.value_()
                block_end = pfn + (1 << order)
            names[pfn] = f"free {order}" if pfn < block_end else _of_page(page)
        except FaultError:
            continue
    return names


def _of_page(page: Any) -> str:
    if PageTail(page):
        page = compound_head(page)
    if PageReserved(page):
        return "reserved"
    if PageSlab(page):
        return "slab"
    if PageLRU(page):
        return "anon" if PageSwapBacked(page) else "file"
    return ""
