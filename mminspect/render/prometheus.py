# SPDX-License-Identifier: LGPL-2.1-or-later
"""The text format of Prometheus, for node_exporter's textfile collector."""

from __future__ import annotations

import time
from collections import Counter
from typing import IO

from mminspect.findings import Report
from mminspect.program.text import one_line
from mminspect.render.style import Style


def _escape(value: object) -> str:
    return one_line(str(value)).replace("\\", "\\\\").replace('"', '\\"')


def _labels(labels: dict[str, object]) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _write_metric(out: IO[str], name: str, help_: str, samples: dict[str, float]) -> None:
    out.write(f"# HELP {name} {help_}\n# TYPE {name} gauge\n")
    for labels, value in samples.items():
        out.write(f"{name}{labels} {value}\n")


def write_report(report: Report, out: IO[str], style: Style) -> None:
    """Write counts of findings, and what the last scan took."""
    summary = report.summary
    counts = Counter(
        _labels(
            {
                "rule": finding.rule,
                "severity": finding.severity,
                "node": "" if finding.node is None else finding.node,
                "zone": finding.zone or "",
            }
        )
        for finding in report.findings
    )
    by_severity = {_labels({"severity": name}): number for name, number in summary["by_severity"].items()}
    _write_metric(out, "mminspect_findings", "Findings by rule, severity, node and zone.", dict(sorted(counts.items())))
    _write_metric(out, "mminspect_findings_by_severity", "Findings by severity.", by_severity)
    _write_metric(out, "mminspect_pages_examined", "Struct pages examined.", {"": summary["pages_examined"]})
    _write_metric(out, "mminspect_pages_unreadable", "Struct pages not readable.", {"": summary["pages_unreadable"]})
    _write_metric(out, "mminspect_transient_findings", "Findings not confirmed.", {"": summary.get("transient", 0)})
    _write_metric(out, "mminspect_scan_seconds", "Duration of the last scan.", {"": summary["elapsed_seconds"]})
    incomplete = int("incomplete" in report.target)
    _write_metric(out, "mminspect_incomplete", "Whether the vmcore is not whole.", {"": incomplete})
    partial = bool(summary.get("partial"))
    _write_metric(out, "mminspect_partial", "Whether the last scan was ended early.", {"": int(partial)})
    if not partial:
        _write_metric(
            out, "mminspect_last_success_timestamp_seconds", "When the last scan ended.", {"": round(time.time(), 3)}
        )
