# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings and reports: plain data, as the JSON report has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SCHEMA = "mminspect.report/1"

ERROR = "error"
WARNING = "warning"
NOTE = "note"
SEVERITIES = (NOTE, WARNING, ERROR)


# What a finding is about: pages; a pageblock, whose pages decide together what is done with them; a zone or node as a
# whole, unless it names pages of it; or the target as it was found, and not what the kernel did.
PAGES = "pages"
BLOCK = "block"
ZONE = "zone"
TARGET = "target"

Range = tuple[int, int]
# What the JSON contract has of a finding.
KEYS = ("rule", "severity", "start_pfn", "end_pfn", "node", "zone", "message", "detail", "id", "signature")


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
    :ivar about: ``PAGES``, ``BLOCK``, ``ZONE`` or ``TARGET``.
    :ivar named: Ranges of the pages that it is about, where these aren't all of ``[start_pfn, end_pfn)``. Ascending.
    :ivar wrong: Ranges of those pages among them that are wrong, where it is about right ones too. Ascending.
    :ivar judged_by: The page that shows best what the kernel does with them, where it isn't the first online one.
    :ivar id: The same for the same pages in each scan of one kernel (:mod:`mminspect.consequences.identity`).
    :ivar signature: The same for the same fault on different machines.
    :ivar known: The known bug or quirk that explains it: ``id``, ``harmful``, ``why``. ``None`` if there is none.
    """

    rule: str
    severity: str
    start_pfn: int
    end_pfn: int
    node: int | None
    zone: str | None
    message: str
    detail: dict[str, Any] = field(default_factory=dict)
    about: str = PAGES
    named: tuple[Range, ...] = ()
    wrong: tuple[Range, ...] = ()
    judged_by: int | None = None
    id: str = ""
    signature: str = ""
    known: dict[str, Any] | None = None

    def changed(self, **values: Any) -> Finding:
        """Get a copy with other values. :func:`dataclasses.replace` takes ten times as long."""
        copy = object.__new__(Finding)
        copy.__dict__.update(self.__dict__, **values)
        return copy

    @property
    def of_zone(self) -> bool:
        """Whether the finding is about a zone as a whole, and about no page of it in particular."""
        return self.about == ZONE and not self.named

    def covers(self, pfn: int) -> bool:
        """Tell whether the finding is about a page, or about the zone as a whole that spans it."""
        return _inside(pfn, self.named or ((self.start_pfn, self.end_pfn),))

    def is_wrong_at(self, pfn: int) -> bool:
        """Tell whether it says of this very page that it is wrong."""
        return not self.of_zone and self.covers(pfn) and (not self.wrong or _inside(pfn, self.wrong))

    def begins_at(self, pfn: int) -> bool:
        """Tell whether the finding, or a part of the pages that it names, begins at a page."""
        return not self.of_zone and (pfn == self.start_pfn or any(pfn == start for start, _ in self.named))

    @property
    def pages(self) -> int:
        """Number of pfns that it is about."""
        if self.about == PAGES and self.named:
            return sum(end - start for start, end in self.named)
        return self.end_pfn - self.start_pfn

    def as_dict(self) -> dict[str, Any]:
        """Get the finding as the JSON contract has it."""
        result = {key: getattr(self, key) for key in KEYS}
        if self.known is not None:
            result["known"] = self.known
        return result


def _inside(pfn: int, ranges: tuple[Range, ...]) -> bool:
    return any(start <= pfn < end for start, end in ranges)


def sort_key(finding: Finding) -> tuple[int, int, str, int, str]:
    """Get what findings are sorted by. Zones that overlap can have findings of one rule on the same pages."""
    node = -1 if finding.node is None else finding.node
    return finding.start_pfn, finding.end_pfn, finding.rule, node, finding.zone or ""


class Report(NamedTuple):
    """
    What a scan found.

    :ivar target: The kernel and its layout.
    :ivar zones: The zones that span pages.
    :ivar summary: Counts.
    :ivar findings: Sorted by start pfn, end pfn and rule.
    :ivar drawn: The map of memory, where it was asked for.
    """

    target: dict[str, Any]
    zones: list[dict[str, Any]]
    summary: dict[str, Any]
    findings: Sequence[Finding]
    drawn: dict[str, Any] | None = None

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
