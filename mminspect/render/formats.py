# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The formats of reports and of changes, by the names that users give them.

Each is a file of this package that is imported when its format is asked for. It has ``write_report``, ``write_changes``
or both; they take what to write, a text stream, and what the stream can show.
"""

from __future__ import annotations

import importlib
from typing import IO, TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from mminspect.commands.watch import Changes
    from mminspect.findings import Report
    from mminspect.render.style import Style

    ReportWriter = Callable[[Report, IO[str], Style], None]
    ChangesWriter = Callable[[Changes, IO[str], Style], None]

# The file of each format. The default is first.
REPORT_FORMATS = {
    "table": "report",
    "json": "json_",
    "ndjson": "ndjson",
    "csv": "csv_",
    "prometheus": "prometheus",
    "ktap": "ktap",
}
# Written from a map, too.
PAGE = "html"
CHANGE_FORMATS = {"table": "table", "ndjson": "ndjson"}


def report_writer(format_: str) -> ReportWriter:
    """Get the function that writes a report in a format."""
    writer: ReportWriter = importlib.import_module(f"mminspect.render.{REPORT_FORMATS[format_]}").write_report
    return writer


def changes_writer(format_: str) -> ChangesWriter:
    """Get the function that writes changes between scans in a format."""
    writer: ChangesWriter = importlib.import_module(f"mminspect.render.{CHANGE_FORMATS[format_]}").write_changes
    return writer
