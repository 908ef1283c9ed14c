# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON: the whole report, or one finding per line."""

import json
from dataclasses import asdict
from typing import IO, Any, Iterable

from mminspect.findings import Report


def write(data: Any, out: IO[str]) -> None:
    """Write any plain data."""
    json.dump(data, out, indent=2)
    out.write("\n")


def write_lines(items: Iterable[Any], out: IO[str]) -> None:
    """Write each item on a line of its own."""
    for item in items:
        json.dump(item, out)
        out.write("\n")


def write_report(report: Report, out: IO[str]) -> None:
    """Write the report as one JSON object."""
    write(report.as_dict(), out)


def write_findings(report: Report, out: IO[str]) -> None:
    """Write each finding as a JSON object on a line of its own."""
    write_lines((asdict(finding) for finding in report.findings), out)
