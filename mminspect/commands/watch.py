# SPDX-License-Identifier: LGPL-2.1-or-later
"""Repeated scans: what is new and what is gone since the last."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from mminspect.commands.diff import identity
from mminspect.findings import Finding


class Change(NamedTuple):
    """
    A finding that came or went.

    :ivar event: ``new`` or ``gone``.
    """

    event: str
    finding: Finding

    def as_dict(self) -> dict[str, Any]:
        """Get it as plain data: the finding and ``event``."""
        return {"event": self.event, **self.finding.as_dict()}


def _key(finding: Finding) -> tuple[Hashable, str]:
    return identity(finding.as_dict()), finding.severity


def changes(before: Sequence[Finding], now: Sequence[Finding]) -> list[Change]:
    """
    Compare two scans.

    A finding is the same if :func:`mminspect.commands.diff.identity` and the severity are.

    :return: What is gone, then what is new.
    """
    old, new = {_key(f) for f in before}, {_key(f) for f in now}
    gone = [Change("gone", f) for f in before if _key(f) not in new]
    return gone + [Change("new", f) for f in now if _key(f) not in old]


def headline(when: time.struct_time, found: Sequence[Change], now: Sequence[Finding]) -> str:
    """
    Write the line that each scan begins with: its time, what changed, and what there is.

    :param found: What changed since the last scan.
    :param now: All that was found.
    """
    counts = [(event, sum(change.event == event for change in found)) for event in ("new", "gone")]
    changed = ", ".join(f"{count} {event}" for event, count in counts if count) or "nothing new, nothing gone"
    return f"{time.strftime('%Y-%m-%d %H:%M:%S%z', when)} {changed}; findings: {len(now)}\n"
