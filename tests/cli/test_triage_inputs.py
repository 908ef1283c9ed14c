# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect triage`` is given and can't read has one line that says so."""

from __future__ import annotations

import lzma
import os
import random
import socket
import sqlite3
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Callable

import pytest

from tests.commands.triage import faults
from tests.conftest import Cli, complaint

LOG = faults.ARM64_6_6.encode()
NEITHER = "neither a vmcore nor a kernel's log"


def database(path: Path) -> None:
    """Make a database that is mostly letters."""
    with sqlite3.connect(path) as connection:
        connection.execute("create table lines (text)")
        connection.executemany("insert into lines values (?)", [(f"BUG: line {n} " + "x" * 900,) for n in range(200)])
    connection.close()


def picture(path: Path) -> None:
    """Make a picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = random.Random(1).randbytes(64 * 65)
    head = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    )


def strings(path: Path) -> None:
    """Make a file of names and numbers, as caches, indexes and bytecode are."""
    names = [f"name_of_symbol_{n}" for n in range(2000)]
    path.write_bytes(b"".join(struct.pack("<HB", len(name), 1) + name.encode() for name in names))


def words(path: Path) -> None:
    """Make a file of texts and zeros between them, as string tables are."""
    path.write_bytes(b"\0".join(b"text_%d" % n for n in range(5000)))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "database": (database, "a database of SQLite"),
    "picture": (picture, "a picture"),
    "strings": (strings, NEITHER),
    "words": (words, NEITHER),
    "random": (lambda path: path.write_bytes(random.Random(1).randbytes(100_000)), NEITHER),
    "random in xz": (lambda path: path.write_bytes(lzma.compress(random.Random(1).randbytes(100_000))), NEITHER),
    "random as UTF-16": (lambda path: path.write_bytes(b"\xff\xfe" + random.Random(1).randbytes(100_000)), NEITHER),
    "page": (lambda path: path.write_bytes(b"<!DOCTYPE html>\n<p>Please log in</p>\n"), "a web page"),
    "journal": (lambda path: path.write_bytes(b"LPKSHHRH" + bytes(100) + b"MESSAGE=x" * 100), "journalctl --file"),
    "lz4": (lambda path: path.write_bytes(b"\x04\x22\x4d\x18" + LOG), "lz4 -dc"),
    "hibernation": (lambda path: path.write_bytes(b"wake" + bytes(range(200)) * 20), "hibernation"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_no_log(kind: str, cli: Cli, tmp_path: Path) -> None:
    make, words_ = KINDS[kind]
    make(tmp_path / "file")
    line = complaint(cli("triage", tmp_path / "file"))
    assert words_ in line and NEITHER in line


def test_programs_are_no_log(cli: Cli) -> None:
    complaint(cli("triage", os.path.realpath(sys.executable)))


@pytest.mark.parametrize(
    "data",
    [
        LOG,
        b"wake up\n" + LOG,
        bytes(300) + LOG,
        LOG + bytes(300),
        b"\xfe\x82\x9c\x1c" * 4 + LOG,
        "Nov 26 00:24:43 rechner app[1]: \u00e4\u00f6\u00fc \u4e2d\u6587 \U0001f600\n".encode() * 20 + LOG,
        LOG.decode().encode("utf-16"),
        LOG.replace(b"\n", b"\x1b[0m\r\n"),
    ],
)
def test_logs_with_what_consoles_and_languages_leave_are_logs(data: bytes, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    (result,) = cli("triage", "--format", "json", tmp_path / "file").json()
    assert result["verdict"] == "struct pages"


def test_what_is_no_file_is_named(cli: Cli, tmp_path: Path) -> None:
    where = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(where))
        assert complaint(cli("triage", where)) == f"{where}: is a socket; give a vmcore or a log"
    for path, what in ((tmp_path, "a directory"), (Path("/dev/null"), "a device"), (Path("/dev/zero"), "a device")):
        assert complaint(cli("triage", path)) == f"{path}: is {what}; give a vmcore or a log"
    assert complaint(cli("triage", tmp_path / "no")) == f"{tmp_path / 'no'}: No such file or directory"


def test_nobody_waits_for_a_pipe_that_c_names(cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in complaint(cli("triage", "-c", tmp_path / "pipe"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LOG)
    (tmp_path / "file").chmod(0)
    assert complaint(cli("triage", tmp_path / "file")) == f"{tmp_path / 'file'}: Permission denied"


@pytest.mark.parametrize(
    ("redirection", "words"),
    [("<&-", "is empty or closed"), ("</dev/null", "is empty or closed"), ("</dev/zero", NEITHER)],
)
def test_standard_inputs_that_are_no_log(redirection: str, words: str) -> None:
    command = f"exec {sys.executable} -m mminspect triage - {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mminspect: the standard input: ") and words in done.stderr
    assert done.stderr.count("\n") == 1
