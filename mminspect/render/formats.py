# SPDX-License-Identifier: LGPL-2.1-or-later
"""The formats of reports and of changes, by the names that users give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Callable

from mminspect.commands.watch import Change
from mminspect.findings import Report
from mminspect.render import csv_, json_, prometheus, table
from mminspect.render.style import Style

# The default is first.
REPORT_FORMATS: dict[str, Callable[[Report, IO[str], Style], None]] = {
    "table": lambda report, out, style: table.write_report(report, out, style.width, style.color, style.verbose),
    "json": lambda report, out, style: json_.write_report(report, out),
    "ndjson": lambda report, out, style: json_.write_findings(report, out),
    "csv": lambda report, out, style: csv_.write_findings(report, out),
    "prometheus": lambda report, out, style: prometheus.write_report(report, out),
}
CHANGE_FORMATS: dict[str, Callable[[Sequence[Change], IO[str], Style], None]] = {
    "table": lambda changes, out, style: table.write_changes(changes, out, style.width, style.color),
    "ndjson": lambda changes, out, style: json_.write_lines((change.as_dict() for change in changes), out),
}
