# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that was stopped runs again, whatever becomes of whoever reads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from mminspect.errors import TargetError
from mminspect.program.pause import Pause
from mminspect.program.qmp import Qmp
from tests.kit.fakeqemu import FakeQemu, fake_qemu


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[FakeQemu]:
    with fake_qemu(tmp_path / "qmp") as made:
        yield made


def paused(qemu: FakeQemu, limit: float = 30) -> Pause:
    """Stop the guest."""
    return Pause("guest", Qmp(str(qemu.path)), limit)


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_stands_still_until_the_end(qemu: FakeQemu) -> None:
    pause = paused(qemu)
    assert qemu.state == "paused"
    pause.check()
    pause.check()
    pause.end()
    assert qemu.state == "running"
    assert qemu.calls.count("cont") == 1
    pause.end()


def test_one_that_did_not_run_is_left_as_it_was(qemu: FakeQemu) -> None:
    qemu.state = "guest-panicked"
    pause = paused(qemu)
    pause.check()
    pause.end()
    assert qemu.state == "guest-panicked"
    assert "stop" not in qemu.calls
    assert "cont" not in qemu.calls


# Leads a group, with a process that outlives it and has all that is open.
READER = """
import os, signal, sys, time
# A shell's job in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from mminspect.program.pause import Pause
from mminspect.program.qmp import Qmp
pause = Pause("guest", Qmp(sys.argv[1]))
if os.fork() == 0:
    os.setsid()
    time.sleep(2)
    os._exit(0)
print("stopped", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_runs_again_when_the_reader_and_its_group_are_killed(qemu: FakeQemu, end: signal.Signals) -> None:
    command = [sys.executable, "-c", READER, str(qemu.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"stopped\n"
        time.sleep(0.2)
        assert qemu.state == "paused"
        os.killpg(reader.pid, end)
        reader.wait()
        wait_for(lambda: qemu.state == "running")


def test_it_stands_still_no_longer_than_the_limit(qemu: FakeQemu) -> None:
    pause = paused(qemu, 0.3)
    wait_for(lambda: qemu.state == "running")
    with pytest.raises(TargetError, match="resumed after 0 s, before it was read; scan it without --stop"):
        pause.check()
    pause.end()
    assert qemu.calls.count("cont") == 1


def test_one_that_somebody_else_resumes(qemu: FakeQemu) -> None:
    pause = paused(qemu)
    qemu.state = "running"
    qemu.event("RESUME")
    time.sleep(0.1)
    with pytest.raises(TargetError, match="somebody else resumed it"):
        pause.check()
    pause.end()
    # It is theirs from then on.
    assert "cont" not in qemu.calls


def test_one_that_can_not_be_stopped(qemu: FakeQemu) -> None:
    qemu.answers["stop"] = lambda: {"error": {"desc": "not now"}}
    with pytest.raises(TargetError, match=r"can't be stopped: .*QEMU refuses stop: not now"):
        paused(qemu)


def test_a_qemu_that_ends(qemu: FakeQemu) -> None:
    pause = paused(qemu)
    qemu.close()
    with pytest.raises(TargetError, match="did not stand still"):
        pause.check()
    pause.end()


def test_a_watchdog_that_is_killed_is_noticed(qemu: FakeQemu) -> None:
    pause = paused(qemu)
    os.kill(pause._child, signal.SIGKILL)
    with pytest.raises(TargetError, match="what resumes it has ended; see that it runs"):
        pause.check()
    pause.end()
