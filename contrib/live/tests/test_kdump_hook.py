# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kdump hook on real dumps."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

CONTRIB = Path(__file__).resolve().parents[2]
HOOK = CONTRIB / "kdump" / "mminspect-kdump"
FIXTURE = CONTRIB.parent / "fixtures" / "vmcores" / "amd64-6.12-400m.xz"
COMMAND = f"{sys.executable} -m mminspect"


def run(*words: object, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the hook."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(CONTRIB.parent),
        "MMINSPECT": COMMAND,
        "MMINSPECT_KDUMP_CONFIG": "/nonexistent",
        **settings,
    }
    command = ["sh", str(HOOK), *map(str, words)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL
    )


@pytest.fixture(name="crash")
def crash_fixture(tmp_path: Path) -> Path:
    """Return a directory like /var/crash with one dump, as kdump-tools names it."""
    if not FIXTURE.exists():
        pytest.skip(f"{FIXTURE.name} is not there")
    place = tmp_path / "202611221200"
    place.mkdir()
    with lzma.open(FIXTURE) as packed, open(place / "dump.202611221200", "wb") as out:
        shutil.copyfileobj(packed, out)
    (place / "dmesg.202611221200").write_text("[    0.0] Linux version\n")
    return tmp_path


def reports(crash: Path) -> list[str]:
    """Return the names of what the hook left."""
    return sorted(path.name.split(".mminspect")[1] for path in crash.glob("*/*.mminspect.*"))


def test_reports_beside_the_dump(crash: Path) -> None:
    """A fresh dump gets both reports, which only root may read, and the next run leaves it alone."""
    done = run(crash)
    assert done.returncode == 0
    assert reports(crash) == [".json", ".triage.txt", ".txt"], done.stderr
    report = next(crash.glob("*/*.mminspect.json"))
    assert json.loads(report.read_text())["schema"] == "mminspect.report/1"
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    before = report.stat().st_mtime_ns
    triage = next(crash.glob("*/*.mminspect.triage.txt"))
    assert "Nothing tells why, or whether, this kernel died." in triage.read_text()
    # The triage is there first, should the rest be cut short.
    assert triage.stat().st_mtime_ns < next(crash.glob("*/dump*[0-9].mminspect.txt")).stat().st_mtime_ns
    assert run(crash).stderr == ""
    assert report.stat().st_mtime_ns == before


def test_as_kdump_post(crash: Path) -> None:
    """With status 0 the crash directory is scanned; with another nothing is."""
    done = run(1, CRASH_DIRECTORY=str(crash))
    assert (done.returncode, reports(crash)) == (0, [])
    assert "no dump was saved" in done.stderr
    done = run(0, CRASH_DIRECTORY=str(crash))
    assert (done.returncode, reports(crash)) == (0, [".json", ".triage.txt", ".txt"])


def test_damaged_dump(crash: Path) -> None:
    """A dump that can't be scanned leaves one line that says why, once, and status 0."""
    dump = next(crash.glob("*/dump.*"))
    dump.write_bytes(b"not a dump at all\n" * 100)
    done = run(dump)
    assert (done.returncode, reports(crash)) == (0, [".log"])
    log = next(crash.glob("*/*.mminspect.log")).read_text()
    assert log.count("\n") == 1 and "Traceback" not in log
    assert run(crash).stderr == ""


def test_nothing_there(tmp_path: Path) -> None:
    """No directory, no dump, an unfinished dump, no mminspect: status 0."""
    assert run(tmp_path / "missing").returncode == 0
    assert run(tmp_path).stderr == ""
    (tmp_path / "dump-incomplete").write_text("part")
    (tmp_path / "vmcore-incomplete").write_text("part")
    (tmp_path / "vmcore-dmesg.txt").write_text("[    0.0] Linux version\n")
    assert run(tmp_path).stderr == ""
    (tmp_path / "vmcore").write_text("a dump")
    done = run(tmp_path, MMINSPECT="no-such-command")
    assert done.returncode == 0
    assert "not found" in done.stderr or "No such file" in done.stderr


def test_time_limit(tmp_path: Path) -> None:
    """A scan that takes too long is ended."""
    (tmp_path / "vmcore").write_text("a dump")
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    done = run(tmp_path, MMINSPECT=str(slow), SECONDS_PER_DUMP="1")
    assert done.returncode == 0
    assert "the scan was ended" in done.stderr


def test_configuration(tmp_path: Path) -> None:
    """The configuration sets the directory and the file with DWARF."""
    (tmp_path / "crash dumps").mkdir()
    (tmp_path / "crash dumps" / "vmcore").write_text("a dump")
    said = tmp_path / "said"
    fake = tmp_path / "fake"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>"{said}"\n')
    fake.chmod(0o755)
    config = tmp_path / "config"
    config.write_text(
        f'CRASH_DIRECTORY="{tmp_path}/crash dumps"\nVMLINUX="/usr/lib/debug/vm linux"\nMMINSPECT={fake}\n'
    )
    done = run(MMINSPECT_KDUMP_CONFIG=str(config))
    assert done.returncode == 0
    words = said.read_text().splitlines()
    assert words[:4] == ["-c", f"{tmp_path}/crash dumps/vmcore", "-s", "/usr/lib/debug/vm linux"]


def planted(crash: Path) -> Path:
    """Make a file that no link may lead to."""
    victim = crash / "victim"
    victim.write_text("kept")
    return victim


def test_log_and_reports_are_not_written_through_links(crash: Path) -> None:
    """Links in the place of the log and the reports are replaced."""
    victim = planted(crash)
    dump = next(crash.glob("*/dump.*"))
    dump.write_bytes(b"not a dump at all\n" * 100)
    log = dump.with_name(f"{dump.name}.mminspect.log")
    log.symlink_to(crash / "nowhere" / "made-by-root")
    for suffix in ("txt", "json.x"):
        dump.with_name(f"{dump.name}.mminspect.{suffix}").symlink_to(victim)
    assert run(crash).returncode == 0
    assert not log.is_symlink()
    assert "not a vmcore" in log.read_text()
    assert victim.read_text() == "kept"
    assert not (crash / "nowhere").exists()
    assert list(crash.glob("*/.mminspect*")) == []


def test_dump_that_is_a_link_is_not_scanned(crash: Path) -> None:
    """Nor is one that somebody else owns."""
    dump = next(crash.glob("*/dump.*"))
    elsewhere = crash / "elsewhere"
    dump.rename(elsewhere)
    dump.symlink_to(elsewhere)
    done = run(crash)
    assert (done.returncode, reports(crash)) == (0, [])
    assert "not scanned: a link" in done.stderr
    dump.unlink()
    elsewhere.rename(dump)
    if os.geteuid() == 0:
        os.chown(dump, 65534, 65534)
        assert "not scanned: a link, or a file that root doesn't own" in run(dump).stderr
        assert reports(crash) == []


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_directory_that_others_can_write_to_is_not_scanned(mode: int, crash: Path) -> None:
    """Not even a sticky one: others can make files in it."""
    next(crash.glob("*/dump.*")).parent.chmod(mode)
    done = run(crash)
    assert (done.returncode, reports(crash)) == (0, [])
    assert "others than root can change its directory" in done.stderr


def test_directory_above_that_others_can_write_to(crash: Path) -> None:
    """A sticky one is safe, as /tmp and Ubuntu's /var/crash are; in another one directories can be exchanged."""
    crash.chmod(0o777)
    assert run(crash).returncode == 0
    assert reports(crash) == []
    crash.chmod(0o1777)
    assert run(crash).returncode == 0
    assert reports(crash) == [".json", ".triage.txt", ".txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_directory_of_somebody_else_is_not_scanned(crash: Path) -> None:
    """Its owner can put anything there at any time."""
    os.chown(next(crash.glob("*/dump.*")).parent, 65534, 65534)
    assert run(crash).returncode == 0
    assert reports(crash) == []


def test_name_of_a_dump_is_shown_without_what_moves_a_terminal(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "vmcore\x1b[2J\\033]0;title\x07\nsecond").write_text("x")
    done = run(tmp_path)
    assert "vmcore?[2J\\033]0;title??second: not scanned" in done.stderr
    assert len(done.stderr.splitlines()) == 1
