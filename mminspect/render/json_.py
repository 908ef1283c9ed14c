# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON: the whole report, or any plain data."""

from __future__ import annotations

import json
from typing import IO, Any

from mminspect.findings import Report
from mminspect.render.style import Style


def write(data: Any, out: IO[str]) -> None:
    """Write any plain data."""
    json.dump(data, out, indent=2)
    out.write("\n")


def write_compact(data: dict[str, Any], key: str, out: IO[str]) -> None:
    """Write plain data with the items of a long list on a line each, and without spaces in them."""
    rest = {name: value for name, value in data.items() if name != key}
    head = json.dumps(rest, indent=2)
    out.write(head[: -len("\n}")] + f',\n  "{key}": [')
    before = "\n"
    for item in data[key]:
        out.write(before + json.dumps(item, separators=(",", ":")))
        before = ",\n"
    out.write("\n  ]\n}\n")


def write_report(report: Report, out: IO[str], style: Style) -> None:
    """Write the report as one JSON object, with each finding on a line of its own."""
    head = json.dumps(report.head(), indent=2)
    assert head.endswith("\n}")
    out.write(head[: -len("\n}")] + ',\n  "findings": [')
    before = "\n    "
    for finding in report.findings:
        out.write(before + json.dumps(finding.as_dict()))
        before = ",\n    "
    out.write("\n  ]\n}\n" if len(report.findings) else "]\n}\n")
