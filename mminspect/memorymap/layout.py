# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that is the same for the whole of one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

FLATMEM = "flatmem"
SPARSEMEM = "sparsemem"
SPARSEMEM_VMEMMAP = "sparsemem_vmemmap"

# Parts of a kernel that may be unknown here; Layout.unknown says why.
PAGEBLOCK_BITS = "pageblock bits"
FREE_LISTS = "free lists"
PER_CPU_LISTS = "per-CPU lists"
COMPOUND_PAGES = "compound pages"
TAILS = "tails"
CONTIGUOUS = "contiguous"


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


class PageFlagsLayout(NamedTuple):
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
class StructPage:
    """
    Where ``struct page`` has its members, and what they mean. Sizes and offsets are in bytes.

    :ivar size: ``sizeof(struct page)``.
    :ivar flag_names: Names of the page flags by bit, without ``PG_``.
    :ivar lru_offset: Offset of ``lru``, which links free pages.
    :ivar compound_head_offset: Offset of ``compound_head``, since Linux 7.1 ``compound_info``; ``None`` if unknown.
    :ivar compound_mask: Whether it holds a mask for the address of a tail page, and not the head's address.
    :ivar order_offset: Where a compound page's second entry has its order, in one byte.
    :ivar buddy: ``_mapcount`` of a free page, as 32 bits (``PageBuddy()``); ``None`` if the kernel doesn't say.
    :ivar types: Page types, each (name, mask, value): ``_mapcount`` as 32 bits has the value under the mask.
    :ivar hugetlb: How the second entry of a hugetlb page tells, where no page type does: (offset of a word, mask,
        value); ``None`` if it doesn't.
    """

    size: int
    flags_offset: int
    refcount_offset: int
    mapcount_offset: int
    flag_names: tuple[str, ...]
    mapping_offset: int = 0
    lru_offset: int = 0
    private_offset: int = 0
    compound_head_offset: int | None = None
    compound_mask: bool = False
    order_offset: int = 0
    buddy: int | None = None
    types: tuple[tuple[str, int, int], ...] = ()
    hugetlb: tuple[int, int, int] | None = None

    def flag(self, name: str) -> int:
        """Return the mask of a flag by name, 0 if the kernel doesn't have it."""
        return 1 << self.flag_names.index(name) if name in self.flag_names else 0

    def names(self, flags: int) -> list[str]:
        """Return the names of the flags that are set."""
        return [name for bit, name in enumerate(self.flag_names) if flags >> bit & 1]

    @cached_property
    def reserved(self) -> int:
        """The mask of PG_reserved."""
        return self.flag("reserved")

    @cached_property
    def lru(self) -> int:
        """The mask of PG_lru."""
        return self.flag("lru")

    @cached_property
    def check_at_prep(self) -> int:
        """``PAGE_FLAGS_CHECK_AT_PREP`` without multi-gen LRU's fields: what no free page may have."""
        return ((1 << len(self.flag_names)) - 1) & ~self.flag("hwpoison")


@dataclass(frozen=True)
class Layout:
    """
    Everything that is the same for the whole of one kernel.

    :ivar word_bits: ``BITS_PER_LONG``.
    :ivar pageblock_order_from: ``option``, ``variable``, ``pagetypeinfo``, ``config`` or ``formula``.
    :ivar bits_per_pageblock: ``NR_PAGEBLOCK_BITS``, 0 if the kernel has no pageblock bitmaps that are known.
    :ivar bits_from_top: Whether block 0 is at the top of a bitmap word, as before Linux 5.9.
    :ivar pfn_section_shift: ``PFN_SECTION_SHIFT``, or ``None`` with FLATMEM.
    :ivar zone_struct_size: ``sizeof(struct zone)``.
    :ivar node_zones_offset: Offset of ``node_zones`` in ``struct pglist_data``.
    :ivar pgdat_members: (name, offset) of the members of ``struct pglist_data``, ascending.
    :ivar migratetypes: Names of the migratetypes by value.
    :ivar free_lists_follow_pageblocks: Whether free pages move to another list with their pageblock's migratetype.
    :ivar isolate_bit: Whether isolation is a bit of its own in the pageblock bitmap (``PB_migrate_isolate``).
    :ivar marks_present: Whether sections have SECTION_MARKED_PRESENT.
    :ivar unknown: Parts of the kernel that aren't known here, and why.
    :ivar tried: Whether mminspect was tried on kernels of this version: ``yes``, ``near`` or ``no``.
    """

    release: str
    machine: str
    page_size: int
    word_bits: int
    byteorder: Literal["little", "big"]
    memory_model: str
    page: StructPage
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
    free_lists_follow_pageblocks: bool = False
    marks_present: bool = True
    unknown: tuple[tuple[str, str], ...] = ()
    tried: str = "no"

    def why_unknown(self, *parts: str) -> str | None:
        """Say why one of some parts of the kernel isn't known; ``None`` if all are."""
        return next((why for part, why in self.unknown if part in parts), None)

    @cached_property
    def order(self) -> str:
        """The byte order, as ``struct`` and numpy write it."""
        return "<" if self.byteorder == "little" else ">"

    @cached_property
    def word(self) -> np.dtype[np.unsignedinteger]:
        """The type of an ``unsigned long``, in the kernel's byte order."""
        return np.dtype(f"{self.order}u{self.word_bits // 8}")

    @cached_property
    def uint(self) -> np.dtype[np.unsignedinteger]:
        """The type of an ``unsigned int``, in the kernel's byte order."""
        return np.dtype(f"{self.order}u4")

    @property
    def address_mask(self) -> int:
        """The largest address."""
        return (1 << self.word_bits) - 1

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

    def flags_of_link(self, link: int) -> int:
        """Return what ``page->flags`` has of a link."""
        node, zone = self.node_zone(link)
        where = self.flags.node
        return zone << self.flags.zone.shift | (0 if self.flags.node_not_in_page_flags else node << where.shift)

    def node_zone(self, link: int) -> tuple[int, int]:
        """Get (node, zone ID) of a link."""
        width = self.flags.zone.width
        return link >> width, link & ((1 << width) - 1)
