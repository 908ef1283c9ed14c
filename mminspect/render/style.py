# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an output stream can show."""

from __future__ import annotations

import os
from typing import IO, NamedTuple

from mminspect.findings import ERROR

# Columns of what isn't a terminal.
WIDTH = 100
MAX_DIGITS = 5


class Style(NamedTuple):
    """
    What an output stream can show, and what of a report to show there.

    :ivar width: Columns, or ``None`` for lines of any length.
    :ivar color: Whether to use color.
    :ivar verbose: Whether to show what the kernel would do with each finding.
    :ivar notes: Whether to show each note.
    :ivar statistics: Whether to show counts in place of findings.
    :ivar fail_on: The least severity that makes a test of a rule fail.
    :ivar next_steps: How to call mminspect, and what opens the kernel, for commands that tell more; none if empty.
    """

    width: int | None = None
    color: bool = False
    verbose: bool = False
    notes: bool = False
    statistics: bool = False
    fail_on: str = ERROR
    next_steps: tuple[str, ...] = ()


def style_of(out: IO[str], width: int | None = None) -> Style:
    """
    Find out what a stream can show.

    :param width: Columns that the user asks for.
    """
    is_terminal = out.isatty()
    color = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Style(width or (is_terminal and _columns_of(out)) or _columns_of_environment() or WIDTH, color)


def _columns_of(out: IO[str]) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns
    except (OSError, ValueError):
        return 0


def _columns_of_environment() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and len(columns) < MAX_DIGITS else 0
