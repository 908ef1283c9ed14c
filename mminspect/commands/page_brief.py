# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect page --brief`` shows: a line a page, of its struct page alone."""

from __future__ import annotations

from typing import Any

from mminspect.commands.page_argument import Meant
from mminspect.kernel.kernel import Kernel
from mminspect.memmap.chunk import INITIALIZED, UNINITIALIZED_KINDS, UNREADABLE_REASONS, Chunk
from mminspect.memmap.page import page_of
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.memorymap.sections import Section


def brief(kernel: Kernel, meant: Meant) -> dict[str, Any]:
    """
    Describe the pages that are meant, without findings and without what leads to them.

    :return: ``start_pfn``, ``end_pfn``, ``understood_as``, and ``pages``: what is in the struct page of each that is
        online.
    """
    start, end = meant.start, meant.end
    memory = kernel.memory
    names = _flag_names(kernel)
    pages = []
    for section in memory.sections:
        for low, high in section.ranges:
            if low >= end or high <= start:
                continue
            first, last = max(low, start), min(high, end)
            chunk = kernel.memmap.chunk(first, last, section)
            for pfn in range(first, last):
                pages.append(_page(kernel, pfn, section, chunk, names))
    return meant.as_dict(pages)


def _flag_names(kernel: Kernel) -> list[tuple[int, str]]:
    """Get the names of the bits of ``page->flags``, those before ``__NR_PAGEFLAGS``."""
    names: dict[int, str] = {}
    for item in kernel.prog.type("enum pageflags").enumerators or ():
        if item.name == "__NR_PAGEFLAGS":
            break
        names.setdefault(int(item.value), item.name)
    return sorted(names.items())


def _page(kernel: Kernel, pfn: int, section: Section, chunk: Chunk, names: list[tuple[int, str]]) -> dict[str, Any]:
    layout = kernel.memory.layout
    info: dict[str, Any] = {
        "pfn": pfn,
        "physical_address": pfn * layout.page_size,
        "struct_page": pfn_to_page(layout, section, pfn),
    }
    page = page_of(chunk, pfn)
    if page is None:
        return {**info, "state": f"unreadable: {UNREADABLE_REASONS[int(chunk.state[pfn - chunk.start_pfn])]}"}
    node, zone_id = layout.node_zone(page.link)
    zone = kernel.memory.zone(node, zone_id)
    return {
        **info,
        "state": "initialized" if page.state == INITIALIZED else UNINITIALIZED_KINDS[page.state],
        "link": {"node": node, "zone_id": zone_id, "zone": zone.name if zone is not None else None},
        "refcount": page.refcount,
        "mapcount": page.mapcount,
        "mapping": page.mapping,
        "flags": [name for bit, name in names if page.flags >> bit & 1],
    }
