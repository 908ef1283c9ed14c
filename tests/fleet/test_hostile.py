# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are the same, that change, that are named badly; folders that lead in circles; children that lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mminspect.errors import MminspectError
from mminspect.fleet import content
from mminspect.fleet.content import content_id
from mminspect.fleet.rows import checked
from mminspect.fleet.sources import Source, expand
from mminspect.fleet.store import ROWS, Store
from mminspect.fleet.task import Limits, read_file
from mminspect.program.text import shell_word
from tests.conftest import Cli

pytest.importorskip("distributed")
pytest.importorskip("duckdb")

LOG = b"[    1.000000] Linux version 6.1.0\n[    2.000000] BUG: Bad page state in process a  pfn:01234\n"
READ = {"row": "file", "status": "read", "verdict": "other", "why": "x"}


def fleet_run(*arguments: object) -> str:
    """Run ``mminspect fleet run``; give what it says."""
    command = [sys.executable, "-m", "mminspect", "fleet", "run", *map(str, arguments), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def file_rows(out: Path) -> list[dict[str, Any]]:
    """Get the rows of files."""
    return [row for row in map(json.loads, (out / ROWS).read_text().splitlines()) if row["row"] == "file"]


def test_what_was_copied_or_moved_is_read_once_and_counts_once(tmp_path: Path, cli: Cli) -> None:
    spool, out = tmp_path / "spool", tmp_path / "out"
    spool.mkdir()
    (spool / "a").write_bytes(LOG)
    (spool / "copy").write_bytes(LOG)
    # As long, but another one.
    (spool / "other").write_bytes(LOG.replace(b"01234", b"01235"))
    assert "2 files, 1 failed" not in fleet_run(spool, "--out", out)
    rows = {Path(row["path"]).name: row for row in file_rows(out)}
    assert [name for name, row in rows.items() if "same_as" in row] == ["copy"]
    assert rows["copy"]["same_as"] == str(spool / "a")
    (spool / "a").rename(spool / "moved")
    assert "1 the same as others" in fleet_run(spool, "--out", out)
    # Another crash takes the name of the first.
    (spool / "a").write_bytes(LOG + b"[    3.000000] x\n")
    fleet_run(spool, "--out", out)
    data = cli("fleet", "show", out, "--format", "json").json()
    assert data["files"]["read"] == 3 and data["copies"] == 1
    assert (
        "3 files read" in cli("fleet", "show", out).out and "1 more file with the same" in cli("fleet", "show", out).out
    )


def test_content_is_that_of_all_bytes_or_of_pieces_and_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identified(data: bytes, mtime: int = 5) -> str | None:
        (tmp_path / "f").write_bytes(data)
        os.utime(tmp_path / "f", ns=(mtime, mtime))
        return content_id(str(tmp_path / "f"), len(data), mtime)

    data = os.urandom(3 << 20)
    assert identified(data) == identified(data, 6)
    for at in (0, 1 << 20, len(data) - 1):
        assert identified(data) != identified(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    monkeypatch.setattr(content, "WHOLE", 1 << 20)
    assert identified(data) == identified(data) != identified(data, 6)
    assert identified(data) != identified(data[:-1] + bytes([data[-1] ^ 1]))
    # Not as it was listed, no file, a device.
    assert content_id(str(tmp_path / "f"), 1, 5) is None
    os.mkfifo(tmp_path / "fifo")
    assert (
        content_id(str(tmp_path / "fifo"), 0, 0) is content_id("/dev/zero", 0, 0) is content_id("/none", 0, 0) is None
    )


def test_file_that_grows_or_vanishes_is_failed_and_read_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LOG)
    old = next(expand([str(path)]))
    path.write_bytes(LOG * 2)
    for _ in range(2):
        (row,) = read_file(*old[:3], Limits())
        assert (row["status"], row["error"]) == ("failed", "it changed or went away while it was read")
        path.unlink(missing_ok=True)
    path.write_bytes(LOG * 2)
    assert read_file(*next(expand([str(path)]))[:3], Limits())[-1]["status"] == "read"


def test_folders_that_lead_in_circles_and_devices_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "log").write_bytes(LOG)
    for name in ("one", "two"):
        (tmp_path / "d" / name).symlink_to("..")
    (tmp_path / "d" / "zero").symlink_to("/dev/zero")
    (tmp_path / "d" / "nothing").symlink_to("/none")
    found = {Path(one.path).name: one.skipped for one in expand([str(tmp_path)])}
    link = "a link to a folder, which isn't followed"
    assert found == {
        "log": None,
        "one": link,
        "two": link,
        "zero": "not a regular file",
        "nothing": "No such file or directory",
    }
    assert [Path(one.path).name for one in expand([f"{tmp_path}/**/l*"])] == ["log"]


NAMES = (b"a\nb", b"\x1b]0;x\x07", b"a\xffb", b"it's", b"a\\xffb")


def test_odd_names_are_read_once_and_said_so_that_a_shell_finds_them(tmp_path: Path, cli: Cli) -> None:
    spool, out = tmp_path / "spool", tmp_path / "out"
    spool.mkdir()
    for number, name in enumerate(NAMES):
        Path(os.fsdecode(os.fsencode(spool) + b"/" + name)).write_bytes(LOG + b"\n" * number)
    fleet_run(spool, "--out", out)
    assert [row["status"] for row in file_rows(out)] == ["read"] * 5
    assert len({row["path"] for row in file_rows(out)}) == 5
    assert "5 done before" in fleet_run(spool, "--out", out)
    assert cli("fleet", "show", out).status == 0


@pytest.mark.parametrize("name", NAMES)
def test_shell_finds_the_file_of_a_word(name: bytes, tmp_path: Path) -> None:
    (path := tmp_path / os.fsdecode(name)).write_bytes(b"found")
    word = shell_word(str(path))
    assert word.isprintable()
    assert subprocess.run(["bash", "-c", f"cat {word}"], capture_output=True, check=True).stdout == b"found"


@pytest.mark.parametrize(
    "rows",
    [
        3,
        [],
        [3],
        [READ, READ],
        [{"row": "finding"}],
        [{**READ, "rules": 3}],
        [{**READ, "rules": {"a": "b"}}],
        [{**READ, "findings": 1 << 63}],
        [{**READ, "why": ["x"]}],
        [{**READ, "known": [3]}],
        [{**READ, "status": "done"}],
        [{"row": "file", "status": "read"}],
    ],
)
def test_rows_that_are_none_are_refused(rows: Any) -> None:
    assert checked([READ]) == [READ]
    with pytest.raises(ValueError, match=r"\w"):
        checked(rows)


def test_child_that_lies_says_nothing_of_other_files(tmp_path: Path) -> None:
    lie = {"path": "/other", "size": 7, "mtime_ns": 7, "content": "all-0", "same_as": "/x", "foreign": 1}
    assert checked([{**READ, **lie}]) == [READ]
    store = Store(str(tmp_path))
    store.add(Source("/a", 1, 1), [{**READ, **lie}])
    store.close()
    assert file_rows(tmp_path)[0]["path"] == "/a"


@pytest.mark.parametrize("data", [b"hello\n", b"[]\n", b'{"row": "file"}\n', b"[" * 99999 + b"\n", b"\xff\n", b"\0\n"])
def test_foreign_rows_are_refused_and_left_alone(data: bytes, tmp_path: Path) -> None:
    (tmp_path / ROWS).write_bytes(data)
    with pytest.raises(MminspectError, match="damaged"):
        Store(str(tmp_path))
    assert (tmp_path / ROWS).read_bytes() == data


def test_place_of_the_rows_must_be_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ROWS)
    with pytest.raises(MminspectError, match="not a regular file"):
        Store(str(tmp_path))
    (tmp_path / ROWS).unlink()
    (tmp_path / ROWS).symlink_to("/tmp/elsewhere")
    with pytest.raises(MminspectError, match="symbolic link"):
        Store(str(tmp_path))
