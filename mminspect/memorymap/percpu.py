# SPDX-License-Identifier: LGPL-2.1-or-later
"""Per-CPU lists of free pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class ListFault(NamedTuple):
    """
    What is wrong with a per-CPU list.

    :ivar problem: As ``detail.problem`` of the rule on per-CPU lists.
    :ivar pfn: Of the page that is wrong, ``None`` for the list's head.
    :ivar value: Address or number that shows it.
    :ivar linked: Whether the page is linked to its neighbors both ways.
    """

    problem: str
    pfn: int | None
    value: int
    linked: bool = False


class PerCpuList(NamedTuple):
    """
    One list of a ``struct per_cpu_pages``: blocks of one order and migratetype.

    :ivar order: Of its blocks; ``None`` for lists of huge pages where nothing tells it.
    :ivar migratetype: In words.
    :ivar pfns: Of the blocks, in the order of the list, as far as it was followed.
    :ivar complete: Whether it was followed to its end.
    """

    order: int | None
    migratetype: str
    pfns: npt.NDArray[np.uint64]
    faults: tuple[ListFault, ...]
    complete: bool


@dataclass(frozen=True)
class PerCpuPages:
    """
    A ``struct per_cpu_pages``: the free pages that one CPU keeps of a zone.

    :ivar count: Its ``count``, in pages.
    :ivar locked: Whether its lock is held, ``None`` if nothing tells whether somebody was changing the lists.
    """

    cpu: int
    node: int
    zone: int
    count: int
    locked: bool | None
    lists: tuple[PerCpuList, ...]


class PerCpuBlocks(NamedTuple):
    """
    The blocks on all per-CPU lists, ascending.

    :ivar start: First pfn of each; likewise the next two.
    :ivar end: Pfn behind the last. Of a huge page of unknown order, this is its second.
    :ivar number: Index of its list.
    :ivar lists: The lists that have blocks.
    """

    start: npt.NDArray[np.uint64]
    end: npt.NDArray[np.uint64]
    number: npt.NDArray[np.intp]
    lists: list[tuple[PerCpuPages, PerCpuList]]


def per_cpu_blocks(per_cpu: Sequence[PerCpuPages]) -> PerCpuBlocks:
    """Put the blocks on all per-CPU lists in order."""
    lists = [(pages, item) for pages in per_cpu for item in pages.lists if len(item.pfns)]
    lengths = [len(item.pfns) for _, item in lists]
    start = np.concatenate([np.zeros(0, np.uint64), *(item.pfns for _, item in lists)])
    sizes = np.array([1 << (item.order or 0) for _, item in lists], np.uint64)
    end = start + np.repeat(sizes, lengths)
    number = np.repeat(np.arange(len(lists)), lengths)
    by_start = np.lexsort((end, start))
    return PerCpuBlocks(start[by_start], end[by_start], number[by_start], lists)
