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


class Changes(NamedTuple):
    """
    What a scan found that the last one had not, and the other way round.

    :ivar when: When it ended, in local time.
    :ivar changes: What is gone, then what is new.
    :ivar findings: How many findings there are now.
    """

    when: time.struct_time
    changes: list[Change]
    findings: int


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
