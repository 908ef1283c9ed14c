# SPDX-License-Identifier: LGPL-2.1-or-later
"""One struct page, decoded for everybody who looks at single pages."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from mminspect.memmap.chunk import INITIALIZED, UNREADABLE_REASONS, Chunk
from mminspect.memorymap.layout import Layout
from mminspect.memorymap.mmzone import page_to_nid, page_zonenum


class Page(NamedTuple):
    """
    A struct page.

    :ivar link: The zone that it links to (:meth:`Layout.link`).
    :ivar state: A state of :mod:`mminspect.memmap.chunk`.
    :ivar reserved: PG_reserved, likewise ``lru``.
    :ivar buddy: PageBuddy().
    :ivar flags: ``page->flags``.
    :ivar refcount: ``_refcount``, signed.
    :ivar mapcount: ``_mapcount``, signed: one less than there are mappings.
    :ivar mapping: ``page->mapping``. It means something else in a page of a type or a slab cache, and in tails.
    :ivar private: ``page->private``.
    :ivar lru_next: ``page->lru.next``, likewise ``lru_prev``.
    :ivar words: All of it.
    """

    pfn: int
    link: int
    state: int
    reserved: bool = False
    lru: bool = False
    buddy: bool = False
    flags: int = 0
    refcount: int = 0
    mapcount: int = -1
    mapping: int = 0
    private: int = 0
    lru_next: int = 0
    lru_prev: int = 0
    words: tuple[int, ...] = ()


@lru_cache(maxsize=8)
def _formats(layout: Layout) -> tuple[struct.Struct, struct.Struct]:
    """Return how all the words of a struct page and one ``int`` are stored."""
    count = layout.page.size // layout.word.itemsize
    letter = "Q" if layout.word_bits == 64 else "I"
    return struct.Struct(f"{layout.order}{count}{letter}"), struct.Struct(f"{layout.order}i")


def flags_link(layout: Layout, flags: int, nid: int | None = None) -> int:
    """
    Return the link in ``page->flags``.

    :param nid: The node where the flags don't have it.
    """
    node = nid if nid is not None and layout.flags.node_not_in_page_flags else page_to_nid(layout, flags)
    return layout.link(node, page_zonenum(layout, flags))


def decode_page(layout: Layout, pfn: int, data: bytes, link: int, state: int = INITIALIZED) -> Page:
    """
    Decode a struct page.

    :param data: All of it.
    :param link: The zone that it links to, which the flags alone don't tell on every kernel.
    """
    member = layout.page
    all_words, signed = _formats(layout)
    words: tuple[int, ...] = all_words.unpack(data)
    size = layout.word.itemsize
    flags = words[member.flags_offset // size]
    (refcount,) = signed.unpack_from(data, member.refcount_offset)
    (mapcount,) = signed.unpack_from(data, member.mapcount_offset)
    return Page(
        pfn=pfn,
        link=link,
        state=state,
        reserved=bool(flags & member.reserved),
        lru=bool(flags & member.lru),
        buddy=member.buddy is not None and mapcount & 0xFFFFFFFF == member.buddy,
        flags=flags,
        refcount=refcount,
        mapcount=mapcount,
        mapping=words[member.mapping_offset // size],
        private=words[member.private_offset // size],
        lru_next=words[member.lru_offset // size],
        lru_prev=words[member.lru_offset // size + 1],
        words=words,
    )


def page_of(chunk: Chunk, pfn: int) -> Page | None:
    """Decode a page of a chunk; ``None`` if the target doesn't hold it."""
    index = pfn - chunk.start_pfn
    state = int(chunk.state[index])
    if state in UNREADABLE_REASONS:
        return None
    assert chunk.words is not None
    return decode_page(chunk.layout, pfn, chunk.words[index].tobytes(), int(chunk.link[index]), state)
