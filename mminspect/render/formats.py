# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Renderers: the only code that knows output formats.

A renderer writes a report to a text stream. It gets a :class:`Style`, which says what the stream can show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Callable

from mminspect.findings import Report
from mminspect.render import csv_, json_, prometheus, table


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


Renderer = Callable[[Report, IO[str], Style], None]
REPORT_FORMATS: dict[str, Renderer] = {
    "table": lambda report, out, style: table.write_report(report, out, style.width, style.color, style.verbose),
    "json": lambda report, out, style: json_.write_report(report, out),
    "ndjson": lambda report, out, style: json_.write_findings(report, out),
    "prometheus": lambda report, out, style: prometheus.write_report(report, out),
    "csv": lambda report, out, style: csv_.write_findings(report, out),
}
