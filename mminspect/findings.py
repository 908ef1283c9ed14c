# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings and reports: plain data, as the JSON report has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "mminspect.report/1"

ERROR = "error"
WARNING = "warning"
NOTE = "note"
SEVERITIES = (NOTE, WARNING, ERROR)


# Rules whose findings are about a zone as a whole, unless they name pages (``detail.pfns``).
OF_A_ZONE = ("compaction-cursor", "free-list", "node-link", "per-cpu-list", "zone-pages")


def worst(*severities: str) -> str:
    """Get the most severe of some severities."""
    return max(severities, key=SEVERITIES.index)


@dataclass(frozen=True)
class Finding:
    """
    One place where the memory map breaks an assumption.

    :ivar rule: ID of the rule.
    :ivar severity: ``error``, ``warning`` or ``note``.
    :ivar start_pfn: First pfn.
    :ivar end_pfn: Pfn behind the last.
    :ivar node: Node that the pages link to; for rules that follow no link, the node whose zone spans
        them. ``None`` if there is none.
    :ivar zone: Name of the zone likewise.
    :ivar message: One sentence: what is wrong and why it matters.
    :ivar detail: What the rule's documentation names.
    """

    rule: str
    severity: str
    start_pfn: int
    end_pfn: int
    node: int | None
    zone: str | None
    message: str
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def of_zone(self) -> bool:
        """Whether the finding is about a zone as a whole, and about no page of it in particular."""
        return self.rule in OF_A_ZONE and not self.detail.get("pfns")

    @property
    def pages(self) -> int:
        """Number of pfns in the finding."""
        return self.end_pfn - self.start_pfn

    def as_dict(self) -> dict[str, Any]:
        """Get the finding as the JSON contract has it."""
        return dict(vars(self))


def sort_key(finding: Finding) -> tuple[int, int, str, int, str]:
    """Get what findings are sorted by. Zones that overlap can have findings of one rule on the same pages."""
    node = -1 if finding.node is None else finding.node
    return finding.start_pfn, finding.end_pfn, finding.rule, node, finding.zone or ""


@dataclass(frozen=True)
class Report:
    """
    What a scan found.

    :ivar target: The kernel and its layout.
    :ivar zones: The zones that span pages.
    :ivar summary: Counts.
    :ivar findings: Sorted by start pfn, end pfn and rule.
    """

    target: dict[str, Any]
    zones: list[dict[str, Any]]
    summary: dict[str, Any]
    findings: Sequence[Finding]

    def head(self) -> dict[str, Any]:
        """Get all but the findings as the JSON contract has it."""
        return {"schema": SCHEMA, "target": self.target, "zones": self.zones, "summary": self.summary}

    def as_dict(self) -> dict[str, Any]:
        """Get the report as the JSON contract has it."""
        return {**self.head(), "findings": [finding.as_dict() for finding in self.findings]}

    def count(self, severity: str) -> int:
        """Count the findings of a severity or worse."""
        return sum(
            number
            for name, number in self.summary["by_severity"].items()
            if SEVERITIES.index(name) >= SEVERITIES.index(severity)
        )
