# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Device memory whose struct pages, or the types of whose pageblocks, were not all initialized.

``memremap_pages()`` gives memory of a device (persistent memory, DAX, GPUs) struct pages: ``memmap_init_zone_device()``
initializes each of them for zone Device, and makes each pageblock MOVABLE. None of it is ever online, so no walk of a
zone comes there, but whoever maps the memory and pins its pages uses them.

- ``uninitialized``: pages that don't link to zone Device of a node that spans them. They hold what was there before:
  ``page_zonenum()`` says that they are no device memory, ``compound_head()`` of a tail doesn't find its head, and
  ``page_pgmap()`` reads a pointer that nobody wrote. An error. Since Linux 5.19, only 128 struct pages of a compound
  page are written, as the rest shares their memory; but where the device lies in a section that also has RAM, nothing
  is shared (fixed in 2026: "mm/mm_init: fix uninitialized struct pages for ZONE_DEVICE").
- ``migratetype``: pageblocks that are not MOVABLE. Since Linux 5.17, only the first one of a compound page was typed
  (fixed in 2026: "mm/mm_init: fix pageblock migratetype for ZONE_DEVICE compound pages"). A warning: the allocator
  never has these blocks, so that only what counts or shows pageblocks is wrong.

Not judged: the memmap of a device in its own memory; pages that ``memremap_pages()`` isn't done with, or that are taken
away (``pgmap->ref`` was killed); kernels before 5.10, which don't tell. If there is more than 1 TiB, the rest isn't
looked at. The running kernel isn't either: ``/proc/kcore`` doesn't have these struct pages.

``detail`` has the ``problem``, the pages that were ``examined`` or the pageblocks (``blocks``), how many of them are
wrong (``wrong``), the first 16 ranges (``ranges``: [start, end, link, or migratetype]), the ``type`` of device memory
(null if unknown), and ``compound``: the pages of each compound page, 1 without.

Example: a DAX device of 64 MiB in a section that it shares with RAM, on Debian's 6.18: of each 512 struct pages, 128
were initialized.
"""

from __future__ import annotations

from collections.abc import Iterator

from mminspect.findings import ERROR, PAGES, WARNING
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.device import MAX_STRETCHES, DevicePages, Stretch
from mminspect.memorymap.layout import TAILS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.zones import Zone
from mminspect.rules.base import Rule, TallyCheck, Violation
from mminspect.rules.commits import commit

SHOWN = 16


class Devices:
    """Judges what was read of device memory before the walk."""

    def __init__(self, memory: MemoryMap) -> None:
        self._memory = memory

    def count(self, chunk: Chunk) -> None:
        """No chunk of a walk has device memory."""

    def add(self, part: None) -> None:
        """Add nothing."""

    def violations(self) -> Iterator[Violation]:
        """Judge each range."""
        for pages in self._memory.device:
            if pages.pages_elsewhere:
                first = self._memory.link_name(pages.elsewhere[0].value)
                text = (
                    f"{pages.pages_elsewhere} of {pages.examined} struct pages of {_name(pages)} were not initialized: "
                    f"the first ones link to {first}"
                )
                numbers = {"examined": pages.examined, "wrong": pages.pages_elsewhere}
                yield self._violation(pages, ERROR, "uninitialized", text, pages.elsewhere, numbers)
            if pages.blocks_untyped:
                kinds = self._memory.layout.migratetypes
                value = pages.untyped[0].value
                name = kinds[value] if value < len(kinds) else str(value)
                text = (
                    f"{pages.blocks_untyped} of {pages.blocks} pageblocks of {_name(pages)} are not MOVABLE, the first "
                    f"are {name}"
                )
                numbers = {"blocks": pages.blocks, "wrong": pages.blocks_untyped}
                yield self._violation(pages, WARNING, "migratetype", text, pages.untyped, numbers)

    def _violation(
        self,
        pages: DevicePages,
        severity: str,
        problem: str,
        text: str,
        stretches: tuple[Stretch, ...],
        numbers: dict[str, int],
    ) -> Violation:
        zone: Zone | None = next(
            (z for z in self._memory.populated_zones if (z.node, z.name) == (pages.node, "Device")), None
        )
        detail = {
            "problem": problem,
            **numbers,
            "ranges": [list(stretch) for stretch in stretches[:SHOWN]],
            "type": pages.kind,
            "compound": pages.compound,
        }
        return Violation(
            severity,
            text + ("; there is more of it, which was not looked at" if pages.cut else ""),
            detail,
            of=zone or self._memory,
            pages=(stretches[0].start, stretches[-1].end if len(stretches) < MAX_STRETCHES else pages.end),
            named=tuple((stretch.start, stretch.end) for stretch in stretches),
        )


def _name(pages: DevicePages) -> str:
    kind = f" ({pages.kind})" if pages.kind is not None else ""
    compound = f", in compound pages of {pages.compound}" if pages.compound not in (None, 1) else ""
    return f"device memory{kind} [{pages.start:#x}, {pages.end:#x}){compound}"


RULE = Rule(
    summary="device memory that was not initialized entirely",
    functions=(
        "memmap_init_zone_device",
        "is_zone_device_page",
        "compound_head",
        "page_pgmap",
        "get_pfnblock_migratetype",
    ),
    commits=(
        commit("6fd3620b3428", "tails of compound pages are not initialized, though not all are shared"),
        commit("c4386bd8ee3a", "only the first pageblock of a compound page is typed"),
    ),
    about=PAGES,
    needs=(TAILS,),
    checks=(TallyCheck(Devices),),
    explains=3,
    device=True,
)
