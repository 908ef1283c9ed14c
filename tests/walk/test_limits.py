# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on a scan: no faster than was asked for."""

from __future__ import annotations

import pytest

from mminspect.rules.registry import select_rules
from mminspect.walk import scan as scan_
from mminspect.walk.engine import Scan
from mminspect.walk.limits import Limits
from mminspect.walk.scan import scan
from tests.conftest import Kernels
from tests.kit.support import AMD64_HEALTHY


class Clock:
    """A clock that only sleeping moves, and work that is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 100.0, 0.0
        monkeypatch.setattr("mminspect.walk.limits.time.monotonic", lambda: self.now)
        monkeypatch.setattr("mminspect.walk.limits.time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds
        self.slept += seconds


def test_pace_is_that_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    pace = Limits(max_rate=1000).pace()
    assert pace is not None
    pace(500)
    assert clock.slept == pytest.approx(0.5)
    # Work takes time, too.
    clock.now += 2
    pace(1500)
    assert clock.slept == pytest.approx(0.5)
    pace(1000)
    assert (clock.now, clock.slept) == (pytest.approx(103.0), pytest.approx(1.0))
    assert Limits().pace() is None


def test_scan_at_a_rate_reads_the_whole_memmap_in_one_process(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    kernel = kernels(AMD64_HEALTHY)
    jobs = []
    walk = scan_.Scan.walk
    monkeypatch.setattr(scan_.Scan, "walk", lambda self, p=None, n=1: jobs.append(n) or walk(self, p, n))
    rate = 1 << 20
    report = scan(kernel, limits=Limits(max_rate=rate, jobs=2))
    layout = kernel.memory.layout
    pages = report.summary["pages_examined"] + report.summary["pages_unreadable"]
    assert clock.slept == pytest.approx(pages * layout.page.size / rate, rel=0.01)
    assert jobs == [1]


def test_walk_that_is_ended_early_counts_nothing(kernels: Kernels) -> None:
    """The free pages of one chunk are not those of a zone."""
    kernel = kernels(AMD64_HEALTHY)
    rules = select_rules(["free-list"])
    walk = Scan(kernel.memory, kernel.memmap, rules, kernel.identify, stop=lambda: True)
    assert list(walk.findings()) == []
    assert walk.stopped
    assert 0 < walk.pages_examined < 1 << 16
    whole = Scan(kernel.memory, kernel.memmap, rules, kernel.identify, stop=lambda: False)
    assert list(whole.findings()) == []
    assert not whole.stopped
    assert whole.pages_examined > walk.pages_examined
