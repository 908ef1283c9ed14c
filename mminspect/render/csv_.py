# SPDX-License-Identifier: LGPL-2.1-or-later
"""CSV: a line per finding."""

from __future__ import annotations

import csv
from typing import IO, Any

from mminspect.findings import Report
from mminspect.program.text import one_line
from mminspect.render.json_ import dumps
from mminspect.render.style import Style

COLUMNS = ("rule", "severity", "start_pfn", "end_pfn", "node", "zone", "message", "detail")


# What spreadsheets take for the start of a formula. Control characters are gone before.
FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def harmless(value: Any) -> Any:
    """Make text harmless to terminals and to spreadsheets."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return "'" + text if text.startswith(FORMULA) else text


def write_report(report: Report, out: IO[str], style: Style) -> None:
    """Write a header and the findings; ``detail`` is JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for finding in report.findings:
        values = [harmless(getattr(finding, column)) for column in COLUMNS[:-1]]
        writer.writerow([*values, dumps(finding.detail)])
