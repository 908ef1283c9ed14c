# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on what a scan may take."""

from __future__ import annotations

import time
from typing import Callable, NamedTuple

# Told how many pages, or bytes, were done.
Progress = Callable[[int], None]


class Limits(NamedTuple):
    """
    Limits on what a scan may take.

    :ivar max_rate: Bytes of memmap to read in a second at most, ``None`` for no limit. They are read by one process.
    :ivar stop: Asked after each chunk whether to end the walk with what was found so far.
    :ivar jobs: Number of processes that read and check a vmcore, ``None`` for what helps. The running kernel is read
        by one.
    """

    max_rate: int | None = None
    stop: Callable[[], bool] | None = None
    jobs: int | None = 1

    def pace(self) -> Progress | None:
        """Get a function that sleeps as long as the rate asks for."""
        if self.max_rate is None:
            return None
        rate = self.max_rate
        start = time.monotonic()
        done = 0

        def sleep(size: int) -> None:
            nonlocal done
            done += size
            time.sleep(max(0.0, done / rate - (time.monotonic() - start)))

        return sleep
