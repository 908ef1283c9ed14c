# SPDX-License-Identifier: LGPL-2.1-or-later
"""LRU lists: the pages that reclaim knows of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class LruFault(NamedTuple):
    """
    What is wrong with an LRU list.

    :ivar problem: As ``detail.problem`` of the rule on LRU lists.
    :ivar pfn: Of the page that is wrong, ``None`` for the list's head.
    :ivar value: Address or number that shows it.
    """

    problem: str
    pfn: int | None
    value: int


class LruList(NamedTuple):
    """
    One list of a ``struct lruvec``.

    :ivar name: In words, such as ``inactive file``.
    :ivar pfns: Of its pages, the first of each folio, in the order of the list, as far as it was followed.
    :ivar complete: Whether it was followed to its end.
    """

    name: str
    pfns: npt.NDArray[np.uint64]
    faults: tuple[LruFault, ...]
    complete: bool


class LruCount(NamedTuple):
    """
    A count of pages that a ``struct lruvec`` has.

    :ivar name: Of what, in words.
    :ivar zone: Zone ID.
    :ivar stated: What the kernel says.
    :ivar counted: Pages of that zone on the lists.
    """

    name: str
    zone: int
    stated: int
    counted: int


@dataclass(frozen=True)
class Lruvec:
    """
    A ``struct lruvec``: the LRU lists of one node, for one memory cgroup.

    :ivar address: Of the structure.
    :ivar memcg: Address of the ``struct mem_cgroup``, ``None`` for the node's own.
    :ivar locked: Whether its lock is held, ``None`` if nothing tells whether somebody was changing the lists.
    :ivar counts: Those that could be compared.
    """

    node: int
    address: int
    memcg: int | None
    locked: bool | None
    lists: tuple[LruList, ...]
    counts: tuple[LruCount, ...]


class LruLists(NamedTuple):
    """
    All LRU lists of a kernel.

    :ivar lruvecs: As far as they can be read.
    :ivar missing: Why there are others, or pages of them, that aren't here; ``None`` if all are here.
    :ivar unlinked: Flags of pages that are counted but on no list, as unevictable ones since Linux 5.18.
    """

    lruvecs: tuple[Lruvec, ...]
    missing: str | None
    unlinked: int
