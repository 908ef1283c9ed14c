# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scans of a kernel whose memory comes and goes, on a stored vmcore whose tables fail to be read now and then."""

from __future__ import annotations

import dataclasses
from itertools import count
from typing import Any, Union

import pytest
from drgn import FaultError

from mminspect.errors import LayoutError
from mminspect.findings import Report
from mminspect.kernel import kernel as kernel_
from mminspect.kernel.kernel import Kernel
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.proc import ProcFiles
from mminspect.rules.registry import select_rules
from mminspect.walk import live
from mminspect.walk.limits import Limits
from mminspect.walk.live import MAX_ATTEMPTS, LiveScan
from mminspect.walk.scan import scan
from tests.conftest import Kernels, Scanned
from tests.kit.support import AMD64_400M, I386_HOLE, without_consequences

GONE = FaultError("could not find memory segment", 0xFFFF888000000000)
ODD = LayoutError("a section has no memmap")
Outcome = Union[None, Exception, MemoryMap]


class Reader:
    """
    Stands for read_memory_map().

    :param outcomes: What the reads give, in their order: None for the truth, an exception, or another map. The last
        one repeats.
    """

    def __init__(self, memory: MemoryMap, *outcomes: Outcome) -> None:
        self.memory = memory
        self.outcomes = outcomes
        self.calls = 0

    def __call__(self, *_: Any, **__: Any) -> MemoryMap:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or self.memory


@pytest.fixture(name="memory")
def memory_fixture(kernels: Kernels) -> MemoryMap:
    """Give the memory map of a stored vmcore."""
    return kernels(AMD64_400M).memory


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(live, "RETRY_SECONDS", 0)


def running(kernel: Kernel, memory: MemoryMap) -> Kernel:
    """Make a kernel that seems to run, as it was read while privileged."""
    made = Kernel(dataclasses.replace(kernel.target, kind="live"), kernel.types)
    made.memory, made.proc_files = memory, ProcFiles()
    return made


def rescanned(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, memory: MemoryMap, *outcomes: Outcome
) -> tuple[Reader, LiveScan]:
    """Scan the vmcore as if it were the running kernel."""
    reader = Reader(memory, *outcomes)
    monkeypatch.setattr(kernel_, "read_memory_map", reader)
    rules = select_rules()
    return reader, live.scan(running(kernels(AMD64_400M), memory), rules, Limits())


def same_findings(result: LiveScan, report: Report) -> bool:
    """Tell whether a scan found what a report has."""
    return list(result.findings) == [without_consequences(f) for f in report.findings]


@pytest.mark.parametrize(
    ("outcomes", "reads"),
    [
        ((None,), 2),
        ((GONE, None), 3),
        ((None, GONE, None), 4),
        ((None, GONE, GONE, None), 5),
        ((None, GONE, ODD, GONE, None), 6),
        ((GONE, GONE, GONE, GONE, None), 6),
    ],
    ids=["still", "first", "after", "after and again", "many", "all but one"],
)
def test_a_read_that_fails_is_tried_again(
    outcomes: tuple[Outcome, ...],
    reads: int,
    kernels: Kernels,
    scanned: Scanned,
    monkeypatch: pytest.MonkeyPatch,
    memory: MemoryMap,
) -> None:
    reader, result = rescanned(kernels, monkeypatch, memory, *outcomes)
    assert reader.calls == reads
    assert same_findings(result, scanned(AMD64_400M))
    assert result.transient == 0


@pytest.mark.parametrize("failure", [GONE, ODD], ids=["fault", "layout"])
def test_reads_that_always_fail_end_with_the_reason(
    failure: Exception, kernels: Kernels, monkeypatch: pytest.MonkeyPatch, memory: MemoryMap
) -> None:
    with pytest.raises(LayoutError, match=str(failure)):
        rescanned(kernels, monkeypatch, memory, failure)
    with pytest.raises(LayoutError, match=str(failure)):
        rescanned(kernels, monkeypatch, memory, None, failure)


def test_memory_that_changes_is_scanned_again(
    kernels: Kernels, scanned: Scanned, monkeypatch: pytest.MonkeyPatch, memory: MemoryMap
) -> None:
    fewer = dataclasses.replace(memory, sections=memory.sections[:-1])
    reader, result = rescanned(kernels, monkeypatch, memory, fewer, None)
    assert reader.calls == 3
    assert same_findings(result, scanned(AMD64_400M))


def test_memory_that_changes_all_the_time_ends_the_scan(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, memory: MemoryMap
) -> None:
    fewer = dataclasses.replace(memory, sections=memory.sections[:-1])
    outcomes = [None if number % 2 else fewer for number in range(MAX_ATTEMPTS + 1)]
    with pytest.raises(LayoutError, match="plugged or unplugged"):
        rescanned(kernels, monkeypatch, memory, *outcomes)


def test_the_running_kernel_is_scanned_so(
    kernels: Kernels, scanned: Scanned, monkeypatch: pytest.MonkeyPatch, memory: MemoryMap
) -> None:
    monkeypatch.setattr(kernel_, "read_memory_map", Reader(memory, None, GONE, GONE, None))
    rules = select_rules()
    report = scan(running(kernels(AMD64_400M), memory), rules)
    assert report.findings == scanned(AMD64_400M).findings
    assert report.summary["transient"] == 0


def test_what_lives_at_an_address_may_change(
    kernels: Kernels, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = kernels(I386_HOLE).memory
    monkeypatch.setattr(kernel_, "read_memory_map", Reader(memory, None))
    calls = count()
    monkeypatch.setattr(Kernel, "identify", lambda *_: {"kind": "slab", "text": f"slab object {next(calls)}"})
    result = live.scan(running(kernels(I386_HOLE), memory), select_rules(["bitmap-bounds"]), Limits())
    expected = [f for f in scanned(I386_HOLE).findings if f.rule == "bitmap-bounds"]
    assert [(f.start_pfn, f.end_pfn) for f in result.findings] == [(f.start_pfn, f.end_pfn) for f in expected]
    assert result.transient == 0
    assert next(calls) > len(expected)
