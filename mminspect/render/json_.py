# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON: the whole report, or any plain data."""

from __future__ import annotations

import json
import re
from typing import IO, Any

from mminspect.findings import Report
from mminspect.program.text import one_line
from mminspect.render.style import Style

SURROGATE = re.compile("[\ud800-\udfff]")


def dumps(data: Any, indent: int | None = None) -> str:
    """Make JSON, in ASCII, of plain data. It holds no lone surrogates, and no control character as it is."""
    # dumps() runs in C, dump() doesn't.
    text = json.dumps(data, indent=indent)
    if "\\ud" in text:
        text = json.dumps(_without_surrogates(data), indent=indent)
    return text.replace("\x7f", "\\u007f")


def _without_surrogates(data: Any) -> Any:
    if isinstance(data, str):
        return SURROGATE.sub(lambda match: one_line(match[0]), data)
    if isinstance(data, dict):
        return {_without_surrogates(key): _without_surrogates(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_without_surrogates(item) for item in data]
    return data


def write(data: Any, out: IO[str]) -> None:
    """Write any plain data. Of what a dictionary holds in lists, one item after the other: there can be thousands."""
    if not isinstance(data, dict) or not data:
        out.write(dumps(data, 2) + "\n")
        return
    before = "{"
    for key, value in data.items():
        out.write(f"{before}\n  {dumps(key)}: ")
        before = ","
        if isinstance(value, (list, tuple)) and value:
            for index, item in enumerate(value):
                out.write(f"{',' if index else '['}\n    {_indented(item, 4)}")
            out.write("\n  ]")
        else:
            out.write(_indented(value, 2))
    out.write("\n}\n")


def _indented(data: Any, by: int) -> str:
    return dumps(data, 2).replace("\n", "\n" + " " * by)


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
    head = dumps(report.head(), 2)
    assert head.endswith("\n}")
    out.write(head[: -len("\n}")] + ',\n  "findings": [')
    before = "\n    "
    for finding in report.findings:
        out.write(before + dumps(finding.as_dict()))
        before = ",\n    "
    out.write("\n  ]\n}\n" if len(report.findings) else "]\n}\n")
