# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the running kernel says of its memory in ``/proc``."""

from __future__ import annotations

from typing import NamedTuple

from mminspect.memorymap.ranges import Range


class ZoneInfo(NamedTuple):
    """A zone in ``/proc/zoneinfo``. ``start_pfn`` is ``None`` for zones without present pages."""

    node: int
    name: str
    spanned: int
    present: int
    start_pfn: int | None


class ProcFiles(NamedTuple):
    """
    What is in the kernel's files.

    :ivar pageblock_order: In ``/proc/pagetypeinfo``, ``None`` if it can't be read.
    :ivar zones: In ``/proc/zoneinfo``.
    :ivar ram: Pfn ranges of System RAM in ``/proc/iomem`` that isn't offline; none if the addresses are hidden.
    """

    pageblock_order: int | None = None
    zones: tuple[ZoneInfo, ...] = ()
    ram: tuple[Range, ...] = ()
