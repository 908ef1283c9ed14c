# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep the page allocator busy until a file exists: python pressure.py STOP.

Anonymous memory of many sizes comes and goes, the page cache is dropped, and the kernel is told to
compact its memory.
"""

from __future__ import annotations

import contextlib
import mmap
import random
import re
import sys
import time
from pathlib import Path

SHARE = 0.5
"""Part of the free memory that is used at most."""
LARGEST = 32 << 20
ROUND_SECONDS = 0.05


def available() -> int:
    """Return the bytes that can be had without swapping."""
    match = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    return int(match.group(1)) << 10 if match else LARGEST


def poke(path: str) -> None:
    """Write 1 into a file of /proc/sys."""
    with contextlib.suppress(OSError):
        Path(path).write_text("1")


def allocate(size: int, chance: random.Random) -> mmap.mmap:
    """Return anonymous memory whose pages are there, as huge pages or not."""
    area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        area.madvise(chance.choice((mmap.MADV_HUGEPAGE, mmap.MADV_NOHUGEPAGE)))
    for offset in range(0, size, mmap.PAGESIZE):
        area[offset] = 1
    return area


def main(stop: Path) -> None:
    """Allocate and free until stop exists."""
    chance = random.Random(1)
    held: list[mmap.mmap] = []
    limit = int(available() * SHARE)
    rounds = 0
    while not stop.exists():
        held.append(allocate(chance.randrange(mmap.PAGESIZE, LARGEST), chance))
        while sum(map(len, held)) > limit:
            held.pop(chance.randrange(len(held))).close()
        rounds += 1
        if rounds % 4 == 0:
            poke("/proc/sys/vm/compact_memory")
        if rounds % 16 == 0:
            poke("/proc/sys/vm/drop_caches")
        time.sleep(ROUND_SECONDS)
    print(f"pressure: {rounds} rounds, at most {limit >> 20} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
