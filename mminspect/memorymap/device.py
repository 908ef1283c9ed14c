# SPDX-License-Identifier: LGPL-2.1-or-later
"""Struct pages and pageblocks of device memory (ZONE_DEVICE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

# Stretches that are kept: those of 32 GiB in compound pages of 2 MiB, each of which is wrong in part.
MAX_STRETCHES = 1 << 14


class Stretch(NamedTuple):
    """
    Adjacent pages, or pageblocks, that are wrong in the same way.

    :ivar start: First pfn.
    :ivar end: Pfn behind the last.
    :ivar value: The link of the pages, or the migratetype of the pageblocks.
    """

    start: int
    end: int
    value: int


@dataclass(frozen=True)
class DevicePages:
    """
    Memory of a ``struct dev_pagemap`` that ``memremap_pages()`` is done with.

    :ivar start: First pfn that it initialized. Before it may be the memmap of the device itself.
    :ivar end: Pfn behind the last.
    :ivar node: Of zone Device that spans it; ``None`` if none does.
    :ivar kind: What device memory it is, in words; ``None`` if unknown.
    :ivar compound: Pages of each of its compound pages, 1 if it has none; ``None`` if unknown.
    :ivar examined: Pages whose struct pages were read.
    :ivar elsewhere: Pages that link to another zone than Device of a node that spans them; the first of them.
    :ivar pages_elsewhere: How many there are.
    :ivar blocks: Pageblocks that are in it whole, and whose migratetype was read.
    :ivar untyped: Of these, those that aren't MOVABLE; the first of them.
    :ivar blocks_untyped: How many there are.
    :ivar cut: Whether there are more pages than are looked at.
    """

    start: int
    end: int
    node: int | None
    kind: str | None
    compound: int | None
    examined: int
    elsewhere: tuple[Stretch, ...]
    pages_elsewhere: int
    blocks: int
    untyped: tuple[Stretch, ...]
    blocks_untyped: int
    cut: bool = False
