# SPDX-License-Identifier: LGPL-2.1-or-later
"""What triage of a vmcore adds to a verdict."""

from __future__ import annotations

from mminspect.commands.triage import kinds
from mminspect.commands.triage.about import About
from mminspect.commands.triage.dump_log import DumpLog
from mminspect.commands.triage.lines import Log
from mminspect.commands.triage.report import Report
from mminspect.commands.triage.run import _judge
from mminspect.commands.triage.verdict import EXPLAINED, Verdict
from mminspect.findings import ERROR, Finding


def test_a_finding_that_looks_like_hardware_is_said_so() -> None:
    crash = Report(kinds.FAULT, "BUG: x", "x", "f", ("f",), marked=True, deadly=True)
    finding = Finding("some-rule", ERROR, 0x17, 0x18, 0, "DMA", "wrong", {"hardware": "one bit"})
    verdict = Verdict(EXPLAINED, "its page is wrong", findings=[finding])
    told = DumpLog(Log([]), True)
    judged = _judge(crash, About(True, "x", ("x",)), told, verdict)
    text = "at pfn 0x17, a word differs in one bit from what it should be"
    assert judged.verdict == EXPLAINED and judged.why == f"its page is wrong; looks like hardware: {text}"
    assert {"hardware": text} in judged.evidence
    plain = Verdict(EXPLAINED, "its page is wrong", findings=[Finding("some-rule", ERROR, 1, 2, 0, "DMA", "x", {})])
    assert _judge(crash, About(True, "x", ("x",)), told, plain).why == "its page is wrong"
