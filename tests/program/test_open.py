# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running kernel where it can't be read."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drgn import ProgramFlags

from mminspect.program import open as targets
from tests.conftest import Cli, complaint


def test_running_kernel_without_kcore(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").touch()
    monkeypatch.setattr(targets, "PROC", str(tmp_path))
    told = complaint(cli("scan"))
    assert "kernels without CONFIG_PROC_KCORE have none" in told
    # That this is such a kernel isn't known: a mount, a security module or a container can hide the file, too.
    assert "this kernel" not in told


def test_kcore_that_a_container_hides(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(targets, "PROC", str(tmp_path))
    # With subset=pid, nothing but processes is there.
    assert "not all of proc is mounted" in complaint(cli("scan"))
    (tmp_path / "meminfo").touch()
    for mask in ("/dev/null", str(tmp_path)):
        (tmp_path / "kcore").symlink_to(mask)
        told = complaint(cli("scan"))
        assert "mounted over it" in told
        assert "CONFIG_PROC_KCORE" not in told
        (tmp_path / "kcore").unlink()
    (tmp_path / "kcore").touch()
    assert targets.why_no_kcore(str(tmp_path)) is None


def test_running_kernel_without_root(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kcore").touch()
    monkeypatch.setattr(targets, "PROC", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in complaint(cli("scan"))


def test_what_c_code_writes_is_kept_off_stderr_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with targets._quiet_stderr(True):
        os.write(2, b"from C code\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "later\n"
    with targets._quiet_stderr(False):
        os.write(2, b"as it is\n")
    assert capfd.readouterr().err == "as it is\n"


@pytest.mark.parametrize(
    ("flags", "path", "is_guest"),
    [
        (ProgramFlags.IS_LINUX_KERNEL | ProgramFlags.IS_LIVE, "guest", True),
        (ProgramFlags.IS_LINUX_KERNEL | ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL, targets.KCORE, False),
    ],
)
def test_live_program_is_the_machine_or_a_guest(
    flags: ProgramFlags, path: str, is_guest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "read_vmcoreinfo", lambda prog: None)
    prog: Any = SimpleNamespace(flags=flags)
    found = targets.from_program(prog)
    assert (found.kind, found.path, found.is_guest) == ("live", path, is_guest)
