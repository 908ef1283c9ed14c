# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests are scanned from their host: one whose kernel hangs, and one that has no kernel yet."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from contrib.kernels.boot import Guest, Qmp, Watch, gdb_socket, qemu_command, running
from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Source, cached, fetch, fetch_busybox
from contrib.kernels.gdb import Poke, poke
from contrib.kernels.initrd import build_initrd
from contrib.kernels.matrix import find_row
from tests.conftest import Cli
from tests.kit.support import ROOT, python

# Disable interrupts, and jump to this instruction for good.
HANG = bytes.fromhex("faebfe")
# A function that init calls again and again.
VICTIM = "__x64_sys_sync"
SHELL = (f"echo VICTIM $(grep ' {VICTIM}$' /proc/kallsyms)", "while true; do sync; sleep 0.2; done")

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed"),
]


class Running(NamedTuple):
    """
    A guest that runs.

    :ivar socket: Path of the monitor that mminspect gets.
    :ivar qmp: Another one.
    """

    socket: str
    qmp: Qmp

    def status(self) -> str:
        """Get the state of the guest."""
        return str(self.qmp.execute("query-status")["status"])

    def registers(self) -> str:
        """Get the registers of its CPU."""
        return str(self.qmp.execute("human-monitor-command", {"command-line": "info registers"}))


def wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextlib.contextmanager
def guest_with_two_monitors(guest: Guest, directory: Path) -> Iterator[tuple[Watch, Running]]:
    """Run a guest."""
    log, errors = directory / "console", directory / "errors"
    first, second = directory / "qmp", directory / "qmp2"
    command = [*qemu_command(guest, log, first), "-qmp", f"unix:{second},server=on,wait=off"]
    with running(command, errors) as process:
        wait_for(lambda: second.exists() or process.poll() is not None)
        with contextlib.closing(Qmp(second)) as qmp:
            yield Watch(process, log, errors, time.monotonic() + guest.timeout), Running(str(first), qmp)


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("hung")
    row = find_row("amd64-6.12")
    assert isinstance(row.source, Source)
    try:
        kernel = cached(row.source) or fetch(row.source, debug=False)
        busybox = fetch_busybox(row.source.suite, row.source.arch)
    except HarnessError as e:
        pytest.skip(f"the kernel can't be had: {e}")
    initrd = build_initrd(directory / "initrd", kernel.modules, busybox, shell=SHELL)
    guest = Guest("amd64", kernel.vmlinuz, initrd, memory="2G", kaslr=True, pokes=True)
    with guest_with_two_monitors(guest, directory) as (watch, made):
        wait_for(lambda: re.search(r"VICTIM [0-9a-f]{16} T", watch.console()) is not None, guest.timeout)
        match = re.search(r"VICTIM ([0-9a-f]{16}) T", watch.console())
        assert match is not None
        address = int(match[1], 16)
        poke(gdb_socket(directory / "qmp"), [Poke(address, HANG)])
        wait_for(lambda: f"RIP={address + 1:016x} RFL=000000" in made.registers())
        # IF is clear.
        flags = re.search(r"RFL=([0-9a-f]{8})", made.registers())
        assert flags is not None
        assert not int(flags[1], 16) & 0x200
        yield made


def scan(made: Running, *arguments: str) -> dict[str, Any]:
    """Scan the guest without debuginfo, and without rights."""
    # Stock kernels have errors at the end of memory.
    fixed = ("--format", "json", "--fail-on", "never", "--sandbox", "require")
    done = python("scan", "--qemu", made.socket, *fixed, *arguments, cwd=ROOT)
    assert (done.status, done.err) == (0, "")
    report: dict[str, Any] = done.json()
    return report


def test_a_hung_guest_has_what_its_dump_has(hung: Running, cli: Cli, tmp_path: Path) -> None:
    core = tmp_path / "core"
    hung.qmp.execute("dump-guest-memory", {"paging": False, "protocol": f"file:{core}"}, 300)
    dump = cli(core, "--format", "json", "--fail-on", "never").json()
    live = scan(hung)
    assert live["target"]["guest"] == {"stopped": False}
    assert live["findings"] == dump["findings"]
    assert live["zones"] == dump["zones"]
    assert live["summary"]["transient"] == 0

    stopped = scan(hung, "--stop")
    assert hung.status() == "running"
    assert stopped["target"]["guest"] == {"stopped": True}
    assert stopped["findings"] == dump["findings"]
    # Lists and counts are judged, too, as in a dump.
    for key in ("pages_examined", "pageblocks", "by_rule", "skipped"):
        assert stopped["summary"][key] == dump["summary"][key]


def test_the_note_is_found_without_the_device(hung: Running) -> None:
    from mminspect.program.guest import Guest as Opened

    guest = Opened(hung.socket)
    found = guest.vmcoreinfo()
    assert found.startswith(b"OSRELEASE=6.12.")
    guest._registers = ""
    assert guest.vmcoreinfo() == found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_scan_that_is_killed_leaves_the_guest_running(hung: Running, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "mminspect", "scan", "--qemu", hung.socket, "--stop", "--max-rate", "1M"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: hung.status() == "paused")
        time.sleep(1)
        assert hung.status() == "paused"
        process.send_signal(number)
    wait_for(lambda: hung.status() == "running", 5)
    assert scan(hung)["findings"]


def test_one_that_is_stopped_stays_so(hung: Running) -> None:
    hung.qmp.execute("stop")
    try:
        assert scan(hung, "--stop")["findings"] == scan(hung)["findings"]
        assert hung.status() == "paused"
    finally:
        hung.qmp.execute("cont")


def test_the_monitor_has_one_client(hung: Running) -> None:
    with contextlib.closing(Qmp(Path(hung.socket))):
        done = python("scan", "--qemu", hung.socket, cwd=ROOT)
    assert done.status == 2
    assert "another client has it, such as libvirt" in done.err


def test_a_guest_that_is_still_in_its_firmware(tmp_path: Path) -> None:
    made = tmp_path / "qmp"
    command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "64M", "-display", "none", "-net", "none"]
    with running([*command, "-qmp", f"unix:{made},server=on,wait=off"], tmp_path / "errors"):
        wait_for(made.exists)
        time.sleep(1)
        done = python("scan", "--qemu", str(made), cwd=ROOT)
    assert (done.status, done.out) == (2, "")
    assert "no Linux kernel is found in the guest's memory: it has not booted yet" in done.err
    assert len(done.err.splitlines()) == 1
