# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command %mminspect of drgn: what it shows is what the command line shows."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from drgn import Program
from drgn.commands import DEFAULT_COMMAND_NAMESPACE

from mminspect import drgn_plugin
from mminspect.program.text import one_line
from tests.conftest import Cli, Unpacked
from tests.kit.support import AMD64_400M


def run(prog: Program, words: str) -> Any:
    """Run the command."""
    return DEFAULT_COMMAND_NAMESPACE.run(prog, f"mminspect {words}".strip())


@pytest.fixture
def prog(unpacked: Unpacked, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Open a vmcore as drgn alone does."""
    monkeypatch.setenv("COLUMNS", "90")
    made = Program()
    made.set_core_dump(str(unpacked(AMD64_400M)))
    return made


@pytest.mark.parametrize("words", ["zones", "page 0x18fe0", "rules", "rules zone-id"])
def test_shows_what_the_command_line_shows(words: str, prog: Program, cli: Cli, unpacked: Unpacked) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run(prog, words)
    assert out.getvalue() == cli(*words.split(), "-c", unpacked(AMD64_400M)).out


def test_scans_and_returns_the_report(prog: Program, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(prog, "")
    lines = capsys.readouterr().out.splitlines()
    assert "2 errors, both known and harmless on stock kernels; 0 warnings; 2 notes" in lines
    assert max(map(len, lines)) <= 90
    assert len(report.findings) == 4
    assert {finding.rule for finding in run(prog, "scan zone-id").findings} == {"zone-id"}


def test_draws_the_map(prog: Program, capsys: pytest.CaptureFixture[str]) -> None:
    data = run(prog, "map")
    assert data["schema"] == "mminspect.map/1"
    whole = capsys.readouterr().out
    assert "E mixed-zone 0x18e00-0x19000" in whole and max(map(len, whole.splitlines())) <= 90
    assert run(prog, "map 0x18e00-0x19000")["is_range"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("page", "give a pfn, a range or an address"),
        ("page 0x99999999", "no pfn of online memory"),
        ("rules zone_id", "did you mean 'zone-id'?"),
        ("scan banana", "there is no rule 'banana'"),
        ("map 9-5", "END after START"),
    ],
)
def test_what_can_not_be_done_is_said(words: str, says: str, prog: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(prog, words) is None
    err = capsys.readouterr().err
    assert err.startswith("mminspect: ") and says in err and len(err.splitlines()) == 1


def test_every_action_is_documented() -> None:
    text = (Path(drgn_plugin.__file__).parents[1] / "docs" / "usage.md").read_text()
    section = text.split("\n## In drgn\n")[1].split("\n## ")[0]
    assert all(f"`%mminspect {action}" in section for action in drgn_plugin.ACTIONS)


def test_in_a_session_on_a_terminal(unpacked: Unpacked) -> None:
    """drgn finds the plugin, and the terminal's width and colors are used."""
    master, slave = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "", "LINES": ""}
    # The command line sets it for itself.
    environment.pop("DRGN_DISABLE_PLUGINS", None)
    command = [str(Path(sys.executable).with_name("drgn")), "-q", "-c", str(unpacked(AMD64_400M))]
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    session = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True)
    os.close(slave)
    try:
        os.write(master, b"%mminspect scan\nexit()\n")
        shown = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                piece = os.read(master, 1 << 16)
            except OSError:
                break
            shown += piece
            if not piece:
                break
        text = shown.decode(errors="replace")
        assert "2 errors, both known and harmless on stock kernels" in text, one_line(text[-500:])
        assert "\x1b[31merror" in text
    finally:
        session.kill()
        session.wait()
        os.close(master)
