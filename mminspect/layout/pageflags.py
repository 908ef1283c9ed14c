# SPDX-License-Identifier: LGPL-2.1-or-later
"""Widths and shifts of section, node and zone in ``page->flags``."""

from __future__ import annotations

from drgn import Program

from mminspect.errors import LayoutError
from mminspect.memorymap.layout import Field, PageFlagsLayout
from mminspect.typeinfo.lookup import enumerator, max_numnodes


def zones_width(max_nr_zones: int) -> int:
    """
    ``ZONES_WIDTH`` of ``include/linux/page-flags-layout.h``.

    :param max_nr_zones: ``MAX_NR_ZONES``.
    :raises LayoutError: for a number that the kernel can't have.
    """
    if not 1 <= max_nr_zones <= 8:
        raise LayoutError(f"the types say that there are {max_nr_zones} zones; they are not those of a kernel")
    return (max_nr_zones - 1).bit_length()


def nodes_shift(prog: Program) -> int:
    """
    ``NODES_SHIFT``, from the length of the zonelists.

    :raises LayoutError: if the types don't tell.
    """
    nodes = max_numnodes(prog)
    if nodes is None or nodes & (nodes - 1) or nodes > 1 << 16:
        raise LayoutError("MAX_NUMNODES can't be told from struct zonelist; the type information is not usable")
    return nodes.bit_length() - 1


def page_flags_layout(prog: Program, word_bits: int, max_nr_zones: int, sections_shift: int) -> PageFlagsLayout:
    """
    Lay out ``page->flags`` as ``include/linux/page-flags-layout.h`` does.

    :param word_bits: ``BITS_PER_LONG``.
    :param sections_shift: ``SECTIONS_SHIFT`` if the flags hold the section (SPARSEMEM without VMEMMAP),
        else 0.
    :raises LayoutError: if the types don't tell.
    """
    nr_pageflags = enumerator(prog, "enum pageflags", "__NR_PAGEFLAGS")
    if nr_pageflags is None:
        raise LayoutError("the type information has no enum pageflags; give the kernel's own vmlinux or BTF")
    # Since Linux kernel commit ec1c86b25f4b ("mm: multi-gen LRU: groundwork") (in v6.1), the generation
    # of a page is in its flags: order_base_2(MAX_NR_GENS + 1) bits, MAX_NR_GENS being 4.
    lru_gen_width = 3 if prog.type("struct lruvec").has_member("lrugen") else 0
    zone_width = zones_width(max_nr_zones)
    shift = nodes_shift(prog)
    fits = zone_width + lru_gen_width + sections_shift + shift <= word_bits - nr_pageflags
    node_width = shift if fits else 0
    # From the top: section, node, zone.
    section_shift = word_bits - sections_shift
    node_shift = section_shift - node_width
    zone_shift = node_shift - zone_width
    # Since Linux kernel commit 53fbef56e07d ("mm: introduce memdesc_flags_t") (in v6.18), the flags are in
    # a structure of one member. Their offset is the same.
    flags_type = prog.type("struct page").member("flags").type
    return PageFlagsLayout(
        section=Field(section_shift if sections_shift else 0, sections_shift),
        node=Field(node_shift if node_width else 0, node_width),
        zone=Field(zone_shift if zone_width else 0, zone_width),
        nodes_shift=shift,
        memdesc=flags_type.type_name() == "memdesc_flags_t",
    )
