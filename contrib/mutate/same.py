# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mistakes that change no answer: somebody looked, and no test can tell."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

SAME = Path(__file__).parent / "same.json"


@cache
def _same() -> set[tuple[str, str, str]]:
    """Read them: file, line of code, change."""
    return {(item["file"], item["code"], item["change"]) for item in json.loads(SAME.read_text(encoding="utf-8"))}


def is_same(row: dict[str, Any]) -> bool:
    """
    Tell whether a mistake is known to change no answer.

    :param row: A line of a file of results. Lines move, so the text of the line tells, and what was replaced.
    """
    file, _, rest = row["id"].partition(":")
    change = rest.split(": ", 1)[1]
    return (file, row["code"], change) in _same()
