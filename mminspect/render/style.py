# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an output stream can show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """
    What an output stream can show.

    :ivar width: Columns of the terminal, or ``None`` if the output isn't one: then no line is wrapped.
    :ivar color: Whether to use colour.
    :ivar verbose: Whether to show what the kernel would do with each finding.
    """

    width: int | None = None
    color: bool = False
    verbose: bool = False
