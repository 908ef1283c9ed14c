# SPDX-License-Identifier: LGPL-2.1-or-later
"""However a run ends, it says so in a line, and leaves nothing but its results."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mminspect.commands.triage.bugs import BUGS
from mminspect.fleet.store import ROWS
from tests.conftest import Cli, complaint
from tests.fleet.test_fleet import LOG, NAMES, fleet_run, groups, rows_of, wait_for_rows
from tests.kit.support import VMCORES

pytest.importorskip("distributed")
pytest.importorskip("duckdb")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Make a fleet that takes some seconds."""
    folder = tmp_path / "many"
    folder.mkdir()
    for copy in range(8):
        for name in NAMES[:3]:
            # What follows a compressed file is padding, and makes each another one.
            (folder / f"{copy}-{name}.xz").write_bytes((VMCORES / f"{name}.xz").read_bytes() + bytes(4 * copy))
    return folder


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Make a folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def of_run(temporary: Path) -> list[int]:
    """Find the processes of a run by their temporary folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if str(temporary).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except (OSError, ValueError):
            continue
    return found


def wait_until_gone(temporary: Path) -> None:
    """Wait until a run has no process left."""
    for _ in range(300):
        if not of_run(temporary):
            return
        time.sleep(0.1)
    pytest.fail(f"left: {of_run(temporary)}")


def command(folder: Path, out: Path) -> list[str]:
    """Get the command of a run."""
    return [sys.executable, "-m", "mminspect", "fleet", "run", str(folder), "--out", str(out), "--workers", "2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_the_terminal_sends_to_all_ends_in_two_lines(
    number: signal.Signals, many: Path, temporary: Path, tmp_path: Path
) -> None:
    """Ctrl-C reaches the workers, too, and those that they started."""
    out = tmp_path / "out"
    with subprocess.Popen(
        command(many, out),
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as client:
        wait_for_rows(out, 2)
        os.killpg(client.pid, number)
        _, err = client.communicate(timeout=60)
    assert client.returncode == 128 + number
    assert len(err.splitlines()) == 2 and "run the same command again to go on" in err, err
    wait_until_gone(temporary)
    assert list(temporary.iterdir()) == []
    assert {"files.parquet", "findings.parquet"} <= {path.name for path in out.iterdir()}


def test_processes_that_are_killed_leave_nothing(many: Path, temporary: Path, tmp_path: Path) -> None:
    """Each process that reads files for a worker is killed once."""
    out = tmp_path / "out"
    with subprocess.Popen(
        command(many, out), env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True
    ) as client:
        wait_for_rows(out, 2)
        for pid in servers(temporary):
            os.kill(pid, signal.SIGKILL)
        _, err = client.communicate(timeout=120)
    assert client.returncode == 0, err
    assert {row["status"] for row in rows_of(out)} == {"read"}
    assert list(temporary.iterdir()) == []


def servers(temporary: Path) -> list[int]:
    """Find the processes that fork for each file, and what they forked."""
    return [pid for pid in of_run(temporary) if b"mminspect.fleet.server" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_file_that_hangs_does_not_outlive_a_client_that_is_killed(many: Path, temporary: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        command(many, out), env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.DEVNULL
    ) as client:
        wait_for_rows(out, 2)
        parents = {int(Path(f"/proc/{pid}/stat").read_text().split()[3]): pid for pid in servers(temporary)}
        for pid in parents.values():
            # The child of a process that is itself in the list.
            if int(Path(f"/proc/{pid}/stat").read_text().split()[3]) in parents.values():
                os.kill(pid, signal.SIGSTOP)
        client.kill()
    wait_until_gone(temporary)


def test_next_run_removes_what_a_killed_one_left(tmp_path: Path, temporary: Path) -> None:
    for name in ("mminspect-fleet-run-old", "mminspect-fleet-run-new", "else"):
        (temporary / name).mkdir()
        (temporary / name / "file").touch()
    environment = {**os.environ, "TMPDIR": str(temporary), "NOW": "61"}
    (tmp_path / "dmesg").write_bytes(LOG)
    code = "import mminspect.fleet.run as run, sys; run.LEFT_AFTER = float(sys.argv.pop(1)); "
    code += "from mminspect.cli.run import run; run(tuple(sys.argv[1:]))"
    words = ["fleet", "run", str(tmp_path / "dmesg"), "--out"]
    for seconds, left in (("60", 3), ("0", 1)):
        done = subprocess.run(
            [sys.executable, "-c", code, seconds, *words, str(tmp_path / seconds)], env=environment, check=False
        )
        assert done.returncode == 0
        assert len(list(temporary.iterdir())) == left


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_on_a_terminal(terminal: bool, many: Path, temporary: Path, tmp_path: Path) -> None:
    """With a terminal, progress is shown; the last line is still whole."""
    out = tmp_path / "out"
    master, slave = pty.openpty()
    with subprocess.Popen(
        command(many, out),
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=slave if terminal else subprocess.DEVNULL,
        stdin=slave,
        start_new_session=True,
    ) as client:
        os.close(slave)
        wait_for_rows(out, 2)
        os.killpg(client.pid, signal.SIGINT)
        said = b"".join(iter(lambda: read_some(master), b""))
        client.wait(timeout=60)
    os.close(master)
    assert client.returncode == 130
    assert b"Traceback" not in said and b"KeyboardInterrupt" not in said
    assert not terminal or said.rstrip().endswith(b"mminspect: interrupted")


def read_some(fd: int) -> bytes:
    """Read from a terminal until it is closed."""
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        return b""


def test_results_in_the_folder_that_is_read_are_no_source(tmp_path: Path) -> None:
    (tmp_path / "dmesg").write_bytes(LOG)
    for _ in range(2):
        ended = fleet_run(str(tmp_path), "--out", str(tmp_path / "out"))
        assert ended.returncode == 0, ended.stderr
    assert "1 done before" in ended.stderr
    assert len(rows_of(tmp_path / "out")) == 1


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run over vmcores with known bugs, and over garbage."""
    folder, out = tmp_path_factory.mktemp("fleet"), tmp_path_factory.mktemp("out")
    for name in ("amd64-5.10-bug", "amd64-6.1-interleaved-page", "i386-5.10-hole"):
        (folder / name).write_bytes((VMCORES / f"{name}.xz").read_bytes())
    for number in range(3):
        (folder / f"garbage{number}").write_bytes(bytes(range(256)) * (8 + number))
    assert fleet_run(str(folder), "--out", str(out)).returncode == 0
    yield out


def test_group_of_a_bug_has_its_own_fix(done: Path) -> None:
    by_id = {bug.id: bug for bug in BUGS}
    found = groups(str(done), "bug")["groups"]
    assert sum(group["key"] in by_id for group in found) > 2
    for group in found:
        bug = by_id.get(group["key"])
        assert group["known"] == ([bug.id] if bug else [])
        assert (group["fix"] or "").startswith(bug.title if bug else "")


def test_files_that_are_not_read_for_one_reason_are_told_once(done: Path, cli: Cli) -> None:
    (item,) = groups(str(done), "bug")["not_read"]
    assert (item["files"], item["error"]) == (3, "neither a vmcore nor a kernel's log")
    assert "  3 skipped: neither a vmcore nor a kernel's log; for example" in cli("fleet", "show", done).out


def test_files_before_a_time_are_not_counted(done: Path, cli: Cli) -> None:
    assert cli("fleet", "show", done, "--since", "2200-01-01").out.startswith("0 files read, 0 failed, 3 skipped; ")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--user", "nosuchuser", "there is no user 'nosuchuser'"),
        ("--scheduler", "bogus://host", "no Dask scheduler at bogus://host: unknown address scheme"),
        ("--scheduler", "", "an address is needed"),
        ("--memory", "abc", "give bytes, for example 4G"),
    ],
)
def test_what_can_not_be_is_said_in_a_line(option: str, value: str, says: str, tmp_path: Path) -> None:
    if option == "--user" and os.geteuid() != 0:
        pytest.skip("needs root")
    (tmp_path / "dmesg").write_bytes(LOG)
    ended = fleet_run(str(tmp_path / "dmesg"), "--out", str(tmp_path / "out"), option, value)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert says in ended.stderr


@pytest.mark.parametrize(
    ("row", "says"), [('{"row": "file"', "isn't whole"), ('{"row":"file","path":"a","size":1e400,', "")]
)
def test_rows_that_are_half_written_or_can_not_be(row: str, says: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / ROWS).write_text(row if says else row + '"mtime_ns":1,"status":"read"}\n')
    if says:
        assert says in complaint(cli("fleet", "show", tmp_path))
    (tmp_path / "dmesg").write_bytes(LOG)
    ended = fleet_run(str(tmp_path / "dmesg"), "--out", str(tmp_path))
    assert ended.returncode == (0 if says else 2), ended.stderr
    assert "report it" not in ended.stderr


def test_nothing_listens_at_a_port_that_others_know(tmp_path: Path) -> None:
    """Two runs at once don't get into each other's way."""
    (tmp_path / "dmesg").write_bytes(LOG)
    code = "import warnings; warnings.simplefilter('error', UserWarning); import sys, socket; "
    code += "s = socket.create_server(('127.0.0.1', 8787)); from mminspect.cli.run import run; run(tuple(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "fleet", "run", str(tmp_path / "dmesg"), "--out", str(tmp_path / "out")]
    ended: Any = subprocess.run(words, capture_output=True, text=True, check=False)
    if "Address already in use" in ended.stderr:
        pytest.skip("port 8787 is in use")
    assert ended.returncode == 0 and "8787" not in ended.stderr, ended.stderr
    assert json.loads((tmp_path / "out" / ROWS).read_text().splitlines()[-1])["status"] == "read"
