# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interrupts and closed pipes: the right status, one line or none, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Unpacked
from tests.kit.support import AMD64_HEALTHY, VMCORES, Done

# Runs the command line in a process that sends itself a signal in the middle of the work.
SCRIPT = """
import importlib, os, signal, sys
module, name, number = importlib.import_module(sys.argv.pop(1)), sys.argv.pop(1), int(sys.argv.pop(1))
original = getattr(module, name)
left = [number]
def hit(*arguments, **options):
    if left:
        os.kill(os.getpid(), left.pop())
    return original(*arguments, **options)
setattr(module, name, hit)
from mminspect.cli.run import run
run()
"""

PLACES = {
    "while it opens the dump": ("mminspect.program.corefile", "parse"),
    "while it loads types": ("mminspect.typeinfo.load", "has_types"),
    "during the scan": ("mminspect.rules.zone_span", "outside"),
}


def signaled(place: str, number: int, directory: Path, *arguments: object) -> Done:
    """Run mminspect so that it gets a signal; its temporary files go to a directory that must stay empty."""
    temporary = directory / "tmpdir"
    temporary.mkdir()
    command = [sys.executable, "-c", SCRIPT, *PLACES[place], str(number), *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert list(temporary.iterdir()) == []
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("number", "status", "word"), [(1, 129, "hung up"), (2, 130, "interrupted"), (15, 143, "terminated")]
)
def test_signal_ends_it_with_one_line(number: int, status: int, word: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    core = VMCORES / f"{AMD64_HEALTHY}.xz"
    done = signaled(place, number, tmp_path, "-c", core, "scan", "-o", tmp_path / "out" / "report")
    assert (done.status, done.out, done.err) == (status, "", f"mminspect: {word}\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_interrupted_capture_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    core = VMCORES / f"{AMD64_HEALTHY}.xz"
    done = signaled("during the scan", 2, tmp_path, "-c", core, "capture", "-o", tmp_path / "out" / "core.zst")
    assert (done.status, done.out, done.err) == (130, "", "mminspect: interrupted\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_nohup_is_respected(tmp_path: Path) -> None:
    core = VMCORES / f"{AMD64_HEALTHY}.xz"
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SCRIPT
    command = [sys.executable, "-c", script, *PLACES["while it opens the dump"], "1", "-c", str(core), "scan"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt_before_anything_is_imported(tmp_path: Path) -> None:
    script = """
import builtins, os, signal
original = builtins.__import__
def hit(name, *rest):
    if name == "mminspect.cli.run":
        os.kill(os.getpid(), signal.SIGINT)
    return original(name, *rest)
builtins.__import__ = hit
from mminspect.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mminspect: interrupted\n")


def test_interrupt_that_gets_lost_in_a_callback_comes_again() -> None:
    script = """
import os, signal, time
from mminspect.cli import run as cli
from mminspect.cli import zones
class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
def lose(*arguments):
    Dropping()
    time.sleep(30)
zones.Session = lose
cli.run(("zones",))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mminspect: interrupted\n")


@pytest.mark.parametrize("format_", ["table", "json", "ndjson", "csv", "prometheus"])
def test_partial_scan_does_not_say_that_all_is_well(format_: str, tmp_path: Path) -> None:
    core = VMCORES / f"{AMD64_HEALTHY}.xz"
    done = signaled("during the scan", 2, tmp_path, "-c", core, "scan", "--partial", "--format", format_)
    assert (done.status, done.err) == (130, "mminspect: interrupted: the report is of the part that was walked\n")
    if format_ == "json":
        assert json.loads(done.out)["summary"]["partial"] is True
    if format_ == "prometheus":
        assert "mminspect_partial 1\n" in done.out
        assert "last_success" not in done.out


def test_partial_scan_with_errors_has_their_status(tmp_path: Path) -> None:
    core = VMCORES / f"{AMD64_HEALTHY}.xz"
    done = signaled("during the scan", 15, tmp_path, "-c", core, "scan", "--partial", "--fail-on", "note")
    assert done.status == 1
    assert "terminated: the report is of the part that was walked" in done.err


def test_partial_scan_that_never_fails(tmp_path: Path) -> None:
    core = VMCORES / f"{AMD64_HEALTHY}.xz"
    done = signaled("during the scan", 2, tmp_path, "-c", core, "scan", "--partial", "--fail-on", "never")
    assert (done.status, done.err) == (0, "mminspect: interrupted: the report is of the part that was walked\n")


def write_to(file: Any, *arguments: str) -> Done:
    """Run mminspect with something else as its stdout."""
    command = [sys.executable, "-m", "mminspect", *arguments]
    done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    return Done(done.returncode, "", done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("scan",),
        ("scan", "--format", "json"),
        ("scan", "--format", "csv"),
        ("zones",),
        ("rules",),
        ("rules", "mixed-zone"),
        ("--help",),
        ("scan", "--help"),
    ],
)
def test_closed_pipe_ends_it_silently(arguments: Any, unpacked: Unpacked) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = write_to(write, "-c", str(unpacked(AMD64_HEALTHY)), *arguments)
    finally:
        os.close(write)
    assert (done.status, done.err) == (141, "")


@pytest.mark.parametrize("arguments", [("scan",), ("rules", "--format", "json")])
def test_full_disk_behind_stdout_is_one_line(arguments: Any, unpacked: Unpacked) -> None:
    with open("/dev/full", "w") as full:
        done = write_to(full, "-c", str(unpacked(AMD64_HEALTHY)), *arguments)
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert line.startswith("mminspect: ")
    assert "No space left on device" in line
    assert "please report it" not in line
