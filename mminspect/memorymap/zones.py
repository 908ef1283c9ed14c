# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nodes and zones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class FreeArea(NamedTuple):
    """
    A ``struct free_area``: the free pages of one order.

    :ivar nr_free: Blocks on its lists, as the kernel counts them.
    :ivar heads: Addresses of ``free_list[]``, by migratetype.
    :ivar first: ``free_list[].next``, by migratetype.
    :ivar last: ``free_list[].prev``, by migratetype.
    """

    nr_free: int
    heads: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]


class ZoneState(NamedTuple):
    """
    What a ``struct zone`` has besides its size.

    :ivar free_areas: By order.
    :ivar locked: Whether ``zone->lock`` is held: somebody may be in the middle of changing a list.
    :ivar node: ``zone->node``, ``None`` without NUMA.
    :ivar pgdat: ``zone->zone_pgdat``.
    :ivar cursors: Compaction's cached pfns by member name; none without CONFIG_COMPACTION.
    """

    free_areas: tuple[FreeArea, ...]
    locked: bool
    node: int | None
    pgdat: int
    cursors: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Zone:
    """
    A ``struct zone``. All pfns and page counts as the kernel has them, none corrected.

    :ivar node: Node ID.
    :ivar index: Zone ID (``enum zone_type``).
    :ivar contiguous: ``zone->contiguous``; false in kernels without it.
    :ivar address: Address of the ``struct zone``.
    :ivar bitmap: ``zone->pageblock_flags``; FLATMEM only, else ``None``.
    :ivar pageblock_flags: What is in the bitmap; FLATMEM only.
    :ivar state: What changes while the kernel runs, ``None`` if it wasn't read.
    """

    node: int
    index: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    contiguous: bool = False
    address: int = 0
    bitmap: int | None = None
    pageblock_flags: bytes = field(default=b"", compare=False, repr=False)
    state: ZoneState | None = field(default=None, compare=False, repr=False)

    @property
    def end_pfn(self) -> int:
        """``zone_end_pfn()``."""
        return self.start_pfn + self.spanned

    def spans(self, pfn: int) -> bool:
        """``zone_spans_pfn()``."""
        return self.start_pfn <= pfn < self.end_pfn

    def __str__(self) -> str:
        return f"node {self.node} zone {self.name}"


class Node(NamedTuple):
    """
    A ``struct pglist_data``.

    :ivar address: Address of the structure.
    :ivar first_deferred_pfn: First pfn whose struct page waits for deferred initialization, or
        ``None`` if none does.
    :ivar online: Whether the node is online. One that isn't can have a pgdat, with empty zones.
    :ivar node_id: ``pgdat->node_id``, ``None`` if it can't be read.
    """

    nid: int
    address: int
    start_pfn: int
    spanned: int
    present: int
    first_deferred_pfn: int | None = None
    online: bool = True
    node_id: int | None = None

    @property
    def end_pfn(self) -> int:
        """``pgdat_end_pfn()``."""
        return self.start_pfn + self.spanned
