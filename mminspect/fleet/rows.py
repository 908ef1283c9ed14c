# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of results: which keys they have, and of what kind each value is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

READ, FAILED, SKIPPED = "read", "failed", "skipped"
FINDING, FILE = "finding", "file"

# Types of DuckDB. A finding has one known bug, a file has a list of them.
COLUMNS = {
    "row": "VARCHAR",
    "path": "VARCHAR",
    "size": "BIGINT",
    "mtime_ns": "BIGINT",
    "status": "VARCHAR",
    "error": "VARCHAR",
    "source": "VARCHAR",
    "release": "VARCHAR",
    "machine": "VARCHAR",
    "verdict": "VARCHAR",
    "why": "VARCHAR",
    "kind": "VARCHAR",
    "function": "VARCHAR",
    "signature": "VARCHAR",
    "known": "JSON",
    "rules": "MAP(VARCHAR, BIGINT)",
    "layout": "VARCHAR",
    "findings": "BIGINT",
    "findings_omitted": "BIGINT",
    "incomplete": "VARCHAR",
    "crash_time": "BIGINT",
    "seconds": "DOUBLE",
    "cpu": "DOUBLE",
    "content": "VARCHAR",
    "same_as": "VARCHAR",
    "rule": "VARCHAR",
    "severity": "VARCHAR",
    "start_pfn": "UBIGINT",
    "end_pfn": "UBIGINT",
    "node": "BIGINT",
    "zone": "VARCHAR",
    "message": "VARCHAR",
    "id": "VARCHAR",
}


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: value is None or (type(value) is int and low <= value < high)


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "VARCHAR": _is_text,
    "BIGINT": _is_number(-1 << 63, 1 << 63),
    "UBIGINT": _is_number(0, 1 << 64),
    "DOUBLE": lambda value: isinstance(value, (int, float)) and 0 <= value < 1e12,
    "JSON": lambda value: _is_text(value) or (isinstance(value, list) and all(isinstance(bug, str) for bug in value)),
    "MAP(VARCHAR, BIGINT)": lambda value: isinstance(value, dict) and all(map(_is_number(0, 1 << 63), value.values())),
}
# What rows don't have from the process that read the file.
OURS = ("path", "size", "mtime_ns", "seconds", "cpu", "content", "same_as")


def checked(rows: Any) -> list[dict[str, Any]]:
    """
    Check the rows of a file that a process wrote which a file may have had in its hands.

    :return: The rows, with what they may have.
    :raises ValueError: if they are none.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no rows")
    if [row.get("row") for row in rows] != [FINDING] * (len(rows) - 1) + [FILE]:
        raise ValueError("the rows of a file are findings, and at last its own")
    result = [{key: row[key] for key in COLUMNS if key in row and key not in OURS} for row in rows]
    for row in result:
        for key, value in row.items():
            if not _FITS[COLUMNS[key]](value):
                raise ValueError(f"{key} can't be {str(value)[:20]!r}")
    last = result[-1]
    if last.get("status") not in (READ, FAILED, SKIPPED) or (last["status"] == READ) != ("verdict" in last):
        raise ValueError("no status")
    return result
