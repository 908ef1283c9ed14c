# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an output stream can show."""

from __future__ import annotations

import os
import shutil
from typing import IO, NamedTuple


class Style(NamedTuple):
    """
    What an output stream can show.

    :ivar width: Columns of the terminal, or ``None`` if the output isn't one: then no line is wrapped.
    :ivar color: Whether to use color.
    :ivar verbose: Whether to show what the kernel would do with each finding.
    """

    width: int | None = None
    color: bool = False
    verbose: bool = False


def style_of(out: IO[str]) -> Style:
    """Find out what a stream can show."""
    if not out.isatty():
        return Style()
    color = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style(shutil.get_terminal_size().columns, color)
