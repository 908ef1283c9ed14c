# SPDX-License-Identifier: LGPL-2.1-or-later
"""A progress bar."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Callable

import click


class ProgressBar:
    """A progress bar on stderr, on a terminal only."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._start = time.monotonic()
        self._done = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, total: int) -> Callable[[int], None]:
        """Begin; see :func:`mminspect.walk.scan.scan`."""
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return lambda pages: None
        bar = self._stack.enter_context(
            click.progressbar(
                length=total,
                label="struct pages",
                file=sys.stderr,
                show_eta=True,
                width=0,
                item_show_func=self._rate,
                update_min_steps=max(1, total // 200),
            )
        )

        def advance(pages: int) -> None:
            self._done += pages
            bar.update(pages, self._done)

        return advance

    def _rate(self, done: int | None) -> str | None:
        seconds = time.monotonic() - self._start
        return f"{done / seconds / 1e6:.1f} M pages/s" if done and seconds else None
