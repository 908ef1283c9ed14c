# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lock memory again and again, and give anonymous memory back lazily."""

from __future__ import annotations

import ctypes
import mmap
import time

LOCKED = 8 << 20
MADV_FREE = 8
PAUSE_SECONDS = 0.2


def filled(size: int) -> mmap.mmap:
    """Return anonymous memory whose pages are there."""
    area = mmap.mmap(-1, size)
    for offset in range(0, size, mmap.PAGESIZE):
        area[offset] = 1
    return area


def lock(area: mmap.mmap) -> None:
    """Lock memory."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(area)))


def main() -> None:
    """Go on until the guest ends."""
    held = filled(LOCKED)
    lock(held)
    while True:
        lock(filled(1 << 20))
        filled(4 << 20).madvise(MADV_FREE)
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
