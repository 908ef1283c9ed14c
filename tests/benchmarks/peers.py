# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Ways to go through the memmap of a vmcore, each a program of its own.

``python -m tests.benchmarks.peers WAY VMCORE`` prints the number of pages and the CPU seconds that they took, start-up
apart. The ways ``inflate`` and ``inflate-zlib`` are for dumps that are compressed with zlib.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any, Callable
from unittest import mock

from drgn import Program
from drgn.helpers.linux.mm import for_each_valid_page_range, page_flags, pfn_to_page

from mminspect.commands.map import cell_order
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import Kernel, open_kernel
from mminspect.memorymap.map import MemoryMap
from mminspect.program import kdump
from mminspect.rules.registry import select_rules
from mminspect.walk.engine import Scan
from mminspect.walk.picture import Picture
from tests.kit.handmade import nothing_known

# Chunks that prog.read() was fastest with.
STEP = 1 << 20
# Slow ways are stopped after so many pages; their speed doesn't change.
ENOUGH = 300000


def scan(kernel: Kernel) -> int:
    """Apply all rules, as mminspect does."""
    walk = Scan(kernel.memory, kernel.memmap, select_rules(), nothing_known)
    walk.findings()
    return walk.pages_examined


def lists(kernel: Kernel) -> int:
    """Follow the per-CPU lists, and do nothing with them."""
    return sum(found.count for found in kernel.memory_with_lists.per_cpu)


def picture(kernel: Kernel) -> int:
    """Apply all rules, and gather the picture, as ``mminspect map`` does."""
    made: list[Picture] = []

    def observe(memory: MemoryMap) -> Picture:
        made.append(Picture(memory, cell_order(memory, None)))
        return made[-1]

    walk = Scan(kernel.memory, kernel.memmap, select_rules(), nothing_known, observe=observe)
    walk.findings()
    _ = made[0].cells
    return walk.pages_examined


def plain_read(kernel: Kernel) -> int:
    """Read all of the memmap and look at none of it."""
    size = kernel.memory.layout.page.size
    pages = 0
    for section in kernel.memory.sections:
        for start, end in section.ranges:
            address = (section.mem_map + start * size) % (1 << kernel.memory.layout.word_bits)
            for offset in range(0, (end - start) * size, STEP):
                kernel.prog.read(address + offset, min(STEP, (end - start) * size - offset))
            pages += end - start
    return pages


def _pages(prog: Program) -> Iterator[Any]:
    for start, end, mem_map in for_each_valid_page_range(prog):
        for pfn in range(start, end):
            yield mem_map + pfn


def valid_page_range(kernel: Kernel) -> int:
    """Read the flags of each page of drgn's for_each_valid_page_range()."""
    return sum(1 for page in islice(_pages(kernel.prog), ENOUGH) if page.flags.value_() is not None)


def page_by_pfn(kernel: Kernel) -> int:
    """Read the flags of each pfn's page."""
    pfns = (pfn for section in kernel.memory.sections for low, high in section.ranges for pfn in range(low, high))
    return sum(1 for pfn in islice(pfns, ENOUGH) if page_flags(pfn_to_page(kernel.prog, pfn)) is not None)


def packed_pages(kernel: Kernel) -> list[bytes]:
    """Collect the memmap's pages as they are in a dump that is compressed with zlib."""
    packed: list[bytes] = []

    def collect(page: bytes, *arguments: int) -> bytes:
        packed.append(page)
        return INFLATE["inflate-zlib"](page, *arguments)

    with mock.patch.object(kdump.zlib, "decompress", collect):
        plain_read(kernel)
    return packed


# Ways to decompress pages and look at none of them: as Python does, and as mminspect does.
INFLATE: dict[str, Callable[..., bytes]] = {"inflate-zlib": zlib.decompress, "inflate": kdump.zlib.decompress}
WAYS: dict[str, Callable[[Kernel], int]] = {
    "scan": scan,
    "lists": lists,
    "picture": picture,
    "plain-read": plain_read,
    "page-by-pfn": page_by_pfn,
    "valid-page-range": valid_page_range,
}


def main(way: str, path: str) -> None:
    """Go one way through a vmcore."""
    with open_kernel(Inputs(path)) as kernel:
        if way in INFLATE:
            packed = packed_pages(kernel)
            inflate = INFLATE[way]
            start = time.process_time()
            for page in packed:
                inflate(page)
            pages = len(packed) * kernel.memory.layout.page_size // kernel.memory.layout.page.size
        else:
            # Read before; that is part of the start.
            _ = kernel.memmap, select_rules()
            start = time.process_time()
            pages = WAYS[way](kernel)
    print(json.dumps({"pages": pages, "cpu": time.process_time() - start}))


if __name__ == "__main__":
    main(*sys.argv[1:])
