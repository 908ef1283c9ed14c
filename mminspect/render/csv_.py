# SPDX-License-Identifier: LGPL-2.1-or-later
"""CSV: a line per finding."""

from __future__ import annotations

import csv
import json
from typing import IO

from mminspect.findings import Report
from mminspect.render.style import Style

COLUMNS = ("rule", "severity", "start_pfn", "end_pfn", "node", "zone", "message", "detail")


def write_report(report: Report, out: IO[str], style: Style) -> None:
    """Write a header and the findings; ``detail`` is JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for finding in report.findings:
        values = [getattr(finding, column) for column in COLUMNS[:-1]]
        writer.writerow([*values, json.dumps(finding.detail)])
