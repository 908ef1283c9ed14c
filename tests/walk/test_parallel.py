# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several processes find what one finds, end with it, and say one line when one of them dies."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

from mminspect.errors import LayoutError, LostError, MminspectError
from mminspect.walk import parallel
from tests.conftest import Cli, Unpacked
from tests.kit.support import AMD64_400M, AMD64_NUMA, I386_HOLE, without_times


def all_children() -> set[str]:
    """Get the processes that this one has started and not waited for."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture()
def children() -> Callable[[], list[str]]:
    """
    Get the processes that this test has started and not waited for.

    What other tests started is left out: multiprocessing's resource tracker stays until the end.
    """
    before = all_children()
    return lambda: sorted(all_children() - before)


def run(work: Callable[[int], Iterable[Any]], items: Sequence[int], jobs: int) -> list[Any]:
    """Get all results."""
    with parallel.run(work, lambda: items, jobs) as results:
        return list(results)


@pytest.mark.parametrize("jobs", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 15, 16, 17, 100])
def test_results_come_in_order(number: int, jobs: int, children: Callable[[], list[str]]) -> None:
    results = run(lambda n: [(n, i) for i in range(n % 3)], range(number), jobs)
    assert results == [(n, i) for n in range(number) for i in range(n % 3)]
    assert children() == []


@pytest.mark.parametrize("name", [AMD64_400M, AMD64_NUMA, I386_HOLE])
def test_findings_are_the_same_for_any_number_of_processes(name: str, cli: Cli, unpacked: Unpacked) -> None:
    core = unpacked(name)
    reports = []
    for jobs in ("1", "2", "5"):
        done = cli("-c", core, "scan", "--format", "json", "--fail-on", "never", "--jobs", jobs)
        assert (done.status, done.err) == (0, "")
        reports.append(without_times(json.loads(done.out)))
    assert reports[0]["findings"]
    assert reports[0] == reports[1] == reports[2]


def fail(error: BaseException) -> Any:
    raise error


def test_an_error_in_a_process_is_the_error_of_the_whole(children: Callable[[], list[str]]) -> None:
    with pytest.raises(MminspectError, match=r"^the memory is gone$"):
        run(lambda n: fail(LayoutError("the memory is gone")), range(40), 2)
    with pytest.raises(MminspectError, match="a worker process failed: ZeroDivisionError: "):
        run(lambda n: [1 // (20 - n)], range(40), 2)
    with pytest.raises(MminspectError, match="out of memory"):
        run(lambda n: fail(MemoryError()), range(40), 2)
    assert children() == []


def test_a_process_that_is_killed_is_one_clear_error(children: Callable[[], list[str]]) -> None:
    def work(number: int) -> Iterator[int]:
        if number == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number

    with pytest.raises(
        MminspectError, match=r"a worker process ended unexpectedly \(killed by signal 9\); use --jobs 1"
    ):
        run(work, range(100), 2)
    assert children() == []


def test_processes_end_when_nobody_wants_their_results(children: Callable[[], list[str]]) -> None:
    with parallel.run(lambda n: [bytes(1 << 20)], lambda: range(1000), 3) as results:
        # At work before anybody asks.
        assert len(children()) == 3
        assert len(next(results)) == 1 << 20
    assert children() == []


@pytest.mark.parametrize("started", [0, 2])
def test_process_that_cannot_be_started_is_one_clear_error(
    started: int, children: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = os.fork
    left = [None] * started

    def forked() -> int:
        if not left:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left.pop()
        return fork()

    monkeypatch.setattr(os, "fork", forked)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(
        MminspectError, match=r"can't start 3 processes: Resource temporarily unavailable; use --jobs 1"
    ):
        run(lambda n: [n], range(40), 3)
    assert children() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_results_are_not_gathered_before_they_are_sent() -> None:
    """A unit of garbage has more than fits into memory."""
    with parallel.run(lambda n: itertools.repeat(bytes(1 << 16)), lambda: range(1), 1) as results:
        assert len(next(results)) == 1 << 16


SCRIPT = """
import sys, time
from mminspect.cli import run as cli
from mminspect.walk import engine
assert hasattr(engine.Scan, "_check")
engine.Scan._check = staticmethod(lambda chunk, collectors: time.sleep(1000))
cli.run(tuple(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "status", "word"), [(2, 130, "interrupted"), (15, 143, "terminated")])
def test_signal_ends_all_processes(number: int, status: int, word: str, unpacked: Unpacked) -> None:
    arguments = ["-c", str(unpacked(AMD64_400M)), "scan", "--jobs", "2"]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        while len(workers := listing.read_text().split()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(workers) == 2
        # A terminal sends it to all of them.
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, "", f"mminspect: {word}\n")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_what_the_terminal_sends_is_left_to_the_parent(name: str) -> None:
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_DFL)
    try:
        assert run(lambda n: [signal.getsignal(number) is signal.SIG_IGN], range(3), 2) == [True] * 3
    finally:
        signal.signal(number, before)


def test_file_that_a_worker_lost_is_told_as_such(children: Callable[[], list[str]]) -> None:
    """SIGBUS means that the mapped file was cut; any other signal is not that."""
    with pytest.raises(LostError):
        run(lambda n: [os.kill(os.getpid(), signal.SIGBUS)], range(1), 2)
    with pytest.raises(MminspectError, match="killed by signal 9"):
        run(lambda n: [os.kill(os.getpid(), signal.SIGKILL)], range(1), 2)
    assert children() == []


def test_signals_come_again_when_the_workers_are_there() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with parallel.run(lambda n: [n], lambda: range(3), 2) as results:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        assert list(results) == [0, 1, 2]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
