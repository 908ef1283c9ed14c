# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where output goes: descriptors, links, closed standard files."""

from __future__ import annotations

import json
import lzma
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from mminspect.cli.output import open_output
from mminspect.errors import MminspectError
from mminspect.render.style import style_of
from tests.conftest import Cli, Unpacked
from tests.kit.support import AMD64_HEALTHY, I386_HOLE, without_times


def shell(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a line of shell; ``$M`` is mminspect, ``$1`` and so on are the arguments."""
    script = f'M() {{ "{sys.executable}" -m mminspect "$@"; }}; {command}'
    words: list[str] = ["bash", "-c", script, "bash", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", ["fd/1", "self/fd/1", "thread-self/fd/1"])
def test_link_to_stdout_is_written_through(name: str, unpacked: Unpacked, tmp_path: Path) -> None:
    # A link of the test's own: as root, a mistake would replace the machine's /dev/stdout.
    link, report = tmp_path / "stdout", tmp_path / "report"
    link.symlink_to("/dev/fd/1" if name == "fd/1" else f"/proc/{name}")
    report.write_text("before\n")
    done = shell('M -c "$1" scan -o "$2" >>"$3"', unpacked(AMD64_HEALTHY), link, report)
    assert (done.returncode, done.stderr) == (0, "")
    assert link.is_symlink()
    assert report.read_text().startswith("before\n6.1.0-")


def test_other_descriptor_is_written_through(unpacked: Unpacked, tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = shell('M -c "$1" scan -o /dev/fd/7 7>"$2"', unpacked(AMD64_HEALTHY), report)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert report.read_text().startswith("6.1.0-")


def test_descriptor_that_is_not_open(unpacked: Unpacked) -> None:
    done = shell('M -c "$1" scan -o /dev/fd/7', unpacked(AMD64_HEALTHY))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_link_to_a_file_is_replaced(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("kept")
    link.symlink_to(victim)
    with open_output(str(link)) as out:
        out.write("new")
    assert victim.read_text() == "kept"
    assert not link.is_symlink()
    assert link.read_text() == "new"


def test_links_in_a_circle_are_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with open_output(str(tmp_path / "a")) as out:
        out.write("new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("arguments", [("scan",), ("scan", "--format", "json"), ("zones",), ("page", "0x1000")])
def test_closed_stdout_is_one_line(arguments: Any, unpacked: Unpacked) -> None:
    done = shell('M -c "$1" "${@:2}" >&-', unpacked(AMD64_HEALTHY), *arguments)
    assert done.returncode == 2
    assert done.stderr == "mminspect: the standard output is closed; open it, or give a file with -o\n"


def test_closed_stdout_is_no_matter_with_an_output_file(unpacked: Unpacked, tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = shell('M -c "$1" scan -o "$2" >&-', unpacked(AMD64_HEALTHY), report)
    assert (done.returncode, done.stderr) == (0, "")
    assert report.read_text().startswith("6.1.0-")


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "<&- 2>&-"])
def test_other_closed_standard_files_are_no_matter(closed: str, unpacked: Unpacked) -> None:
    done = shell(f'M -c "$1" scan {closed}', unpacked(AMD64_HEALTHY))
    assert done.returncode == 0
    assert done.stdout.startswith("6.1.0-")


def test_all_streams_into_a_pipe_that_is_closed(unpacked: Unpacked) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mminspect", "-c", str(unpacked(AMD64_HEALTHY)), "scan"]
    try:
        assert subprocess.run(command, stdout=write, stderr=write, check=False, timeout=60).returncode == 141
    finally:
        os.close(write)


def test_dumb_terminal_gets_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            raise OSError

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert style_of(Terminal()).color  # type: ignore[arg-type]
    monkeypatch.setenv("TERM", "dumb")
    assert not style_of(Terminal()).color  # type: ignore[arg-type]


def test_capture_says_how_large_its_file_is(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    output = tmp_path / "core.XZ"
    done = cli("-c", unpacked(AMD64_HEALTHY), "capture", "-o", output)
    data = output.read_bytes()
    assert data.startswith(b"\xfd7zXZ\0")
    whole = len(lzma.decompress(data))
    assert done.err == f"{output}: writes {whole:,} bytes before compression\n{output}: {len(data):,} bytes\n"


def test_output_file_holds_what_stdout_would(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    path = unpacked(I386_HOLE)
    done = cli("-c", path, "scan", "--format", "json", "-o", tmp_path / "report")
    assert (done.status, done.out, done.err) == (1, "", "")
    report = json.loads((tmp_path / "report").read_text())
    assert without_times(report) == without_times(cli("-c", path, "scan", "--format", "json").json())


def test_output_file_has_the_rights_of_the_umask(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", tmp_path / "report")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o640


def test_output_file_is_replaced_at_once(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    """Who has the old file open keeps reading the old one."""
    report = tmp_path / "report"
    report.write_text("old")
    with report.open() as old:
        cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", report)
        assert old.read() == "old"
    assert report.read_text() != "old"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_dash_is_stdout(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("-c", unpacked(AMD64_HEALTHY), "scan", "--format", "csv", "-o", "-")
    assert done.out.startswith("rule,severity")


def swap(directory: Path, make: Callable[[Path], None]) -> None:
    """Do what the owner of a directory can: put something else in the place of a file that is being written."""
    (temporary,) = directory.glob(".mminspect-*")
    temporary.unlink()
    make(temporary)


def test_link_put_in_the_place_of_an_unfinished_file_changes_no_other_file(tmp_path: Path) -> None:
    directory, victim = tmp_path / "theirs", tmp_path / "victim"
    directory.mkdir()
    victim.write_text("kept")
    victim.chmod(0o600)
    with pytest.raises(MminspectError, match="somebody else changed the directory"):  # noqa: SIM117
        with open_output(str(directory / "report")) as out:
            out.write("new")
            swap(directory, lambda path: path.symlink_to(victim))
    assert victim.read_text() == "kept"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


def test_directory_that_is_renamed_meanwhile_still_gets_the_file(tmp_path: Path) -> None:
    directory, other = tmp_path / "theirs", tmp_path / "other"
    directory.mkdir()
    other.mkdir()
    with open_output(str(directory / "report")) as out:
        out.write("new")
        directory.rename(tmp_path / "moved")
        (tmp_path / "theirs").symlink_to(other)
    assert (tmp_path / "moved" / "report").read_text() == "new"
    assert list(other.iterdir()) == []


def test_link_to_a_device_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/full")
    with open_output(str(link)) as out:
        out.write("new")
    assert not link.is_symlink()
    assert link.read_text() == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a FIFO of another user")
def test_fifo_of_another_user_is_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "report"
    os.mkfifo(fifo)
    os.chown(fifo, 65534, 65534)
    with open_output(str(fifo)) as out:
        out.write("new")
    assert fifo.is_file()
    assert fifo.read_text() == "new"


def test_error_of_a_dump_that_is_not_whole_is_one_line(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    data = unpacked("i386-5.10-behind-mem-map").read_bytes()
    path = tmp_path / "core"
    path.write_bytes(data[:6494118])
    done = cli("-c", path, "page", "0xffffffff82000000")
    assert done.status == 2 and done.err.count("\n") == 1
    assert "no pfn of online memory" in done.err and "the vmcore is truncated: the file has 6494118 bytes" in done.err
    assert cli("-c", path, "zones").err.startswith(f"mminspect: {path}: truncated: ")
