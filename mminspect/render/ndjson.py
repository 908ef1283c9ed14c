# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON, an object a line: findings, or what changed since the last scan."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from mminspect.findings import Report
from mminspect.render.json_ import dumps
from mminspect.render.style import Style

if TYPE_CHECKING:
    from mminspect.commands.watch import Changes


def write_report(report: Report, out: IO[str], style: Style) -> None:
    """Write each finding."""
    for finding in report.findings:
        out.write(dumps(finding.as_dict()) + "\n")


def write_changes(found: Changes, out: IO[str], style: Style) -> None:
    """Write each change: a finding and ``event``."""
    for change in found.changes:
        out.write(dumps(change.as_dict()) + "\n")
