# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel releases in order."""

from __future__ import annotations

import re

_RELEASE = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,5}))?")
_CANDIDATE = re.compile(r"-rc(\d{1,3})")
# A release without "-rc" comes behind all of its candidates.
_FINAL = 1000

Release = tuple[int, int, int, int]


def parse_release(text: str | None) -> Release | None:
    """
    Return a release as numbers that compare: major, minor, release candidate, sublevel.

    :param text: As in ``uname -r``, or as in a table: ``5.12``, ``5.11-rc5``.
    """
    match = _RELEASE.match(text or "")
    if match is None or text is None:
        return None
    candidate = _CANDIDATE.search(text)
    rank = int(candidate.group(1)) if candidate else _FINAL
    return int(match.group(1)), int(match.group(2)), rank, int(match.group(3) or 0)
