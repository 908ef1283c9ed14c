# SPDX-License-Identifier: LGPL-2.1-or-later
"""What triage of a vmcore adds to a verdict."""

from __future__ import annotations

from mminspect.commands.triage import kinds
from mminspect.commands.triage.about import About
from mminspect.commands.triage.dump_log import DumpLog
from mminspect.commands.triage.files import status_of
from mminspect.commands.triage.lines import Log
from mminspect.commands.triage.places import place_in
from mminspect.commands.triage.report import Report
from mminspect.commands.triage.run import _judge
from mminspect.commands.triage.verdict import EXPLAINED, Verdict
from mminspect.findings import ERROR, Finding
from tests.conftest import Kernels
from tests.kit.support import AMD64_NUMA, I386_HOLE


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


def test_place_of_a_pfn(kernels: Kernels) -> None:
    # The guest's zones meet inside of block 0x20200; its own log says where.
    memory = kernels(AMD64_NUMA).memory
    first, second = (zone for zone in memory.populated_zones if zone.end_pfn > 0x20200 and zone.start_pfn < 0x20400)
    cuts = f"{first} ends inside of its pageblock, at pfn {first.end_pfn:#x}"
    cuts += f"; {second} begins inside of its pageblock, at pfn {second.start_pfn:#x}"
    assert place_in(memory, (), 0x20200) == f"in {first}, online; {cuts}"
    assert place_in(memory, (), 0x203FF) == f"in {second}, online; {cuts}"
    assert place_in(memory, (), 1 << 40) == "in no zone, not online: no struct page that counts"
    hole = kernels(I386_HOLE)
    assert place_in(hole.memory, hole.resources, 0xA17B) == "in node 0 zone Normal, online, /proc/iomem: Reserved"


def test_status_of_several_results_is_the_worst() -> None:
    explained, other, failed = {"verdict": "explained"}, {"verdict": "other"}, {"error": "no"}
    assert status_of([]) == status_of([other]) == 0
    assert status_of([other, explained]) == 1
    assert status_of([explained, failed, other]) == 2
