# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A report that can be shown to anybody: without the addresses that tell where the kernel lies, and without paths.

A number that is larger than any pfn of the machine is taken for an address, or a word of memory, and gets a name that
is the same throughout the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mminspect.findings import Finding, Report
from mminspect.walk.spill import Findings

# Nothing of a kernel whose place is random lies below this. Sizes and counts do.
LEAST = 1 << 24
PATH = "(redacted)"
# Numbers in text. Names, such as those of findings' IDs, have none of this form.
_HEX = re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE)
_DECIMAL = re.compile(r"(?<![\w.,])\d{8,}(?![\w.])")
# What isn't of the kernel's memory.
_KEPT = ("id", "signature", "rule", "commit")


class Redactor:
    """
    Takes out what a report should not disclose.

    :param report: The report.
    """

    def __init__(self, report: Report) -> None:
        pfns = [zone["end_pfn"] for zone in report.zones if zone["end_pfn"] < 1 << 40]
        self._limit = max(LEAST, 2 * max(pfns, default=0))
        self._names: dict[int, int] = {}
        self._path = report.target.get("path")

    def number(self, value: int) -> int | str:
        """Get what stands for a number."""
        if value < self._limit:
            return value
        return f"address {self._names.setdefault(value, len(self._names) + 1)}"

    def text(self, text: str) -> str:
        """Redact a text."""
        if self._path:
            text = text.replace(self._path, PATH)
        text = _HEX.sub(lambda match: self._of(match[0], 16), text)
        return _DECIMAL.sub(lambda match: self._of(match[0], 10), text)

    def _of(self, word: str, base: int) -> str:
        shown = self.number(int(word, base))
        return word if isinstance(shown, int) else f"({shown})"

    def value(self, data: Any) -> Any:
        """Redact plain data."""
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, bool) or data is None:
            return data
        if isinstance(data, int):
            return self.number(data)
        if isinstance(data, Mapping):
            return {key: value if key in _KEPT else self.value(value) for key, value in data.items()}
        if isinstance(data, (list, tuple)):
            return [self.value(item) for item in data]
        return data

    def finding(self, finding: Finding) -> Finding:
        """Redact a finding. Where it is, and its ID, stay."""
        return replace(finding, message=self.text(finding.message), detail=self.value(finding.detail))


def redacted(report: Report) -> Report:
    """Make a report without addresses and paths."""
    redactor = Redactor(report)
    findings = Findings()
    for finding in report.findings:
        findings.add(redactor.finding(finding))
    target = {**report.target, "path": PATH}
    if "incomplete" in target:
        target["incomplete"] = redactor.text(target["incomplete"])
    summary = {**report.summary, "skipped": redactor.value(report.summary.get("skipped", {}))}
    return report._replace(target=target, summary=summary, findings=findings)
