# SPDX-License-Identifier: LGPL-2.1-or-later
"""Triage reads vmcores in every wrapping that scan reads, and names what is neither a vmcore nor a log."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_HEALTHY


def tar(data: bytes) -> bytes:
    """Make an archive with one vmcore."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("crash/vmcore")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def long_window(data: bytes) -> bytes:
    """Compress as ``zstd --long=28`` does."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("wrap", [lambda data: bz2.compress(data, 1), tar, long_window], ids=["bzip2", "tar", "zstd"])
def test_vmcore_in_another_wrapping(wrap: Any, cli: Cli, unpacked: Unpacked, small: Any) -> None:
    done = cli("triage", small(wrap(unpacked(AMD64_HEALTHY).read_bytes())), "--format", "json")
    (result,) = done.json()
    assert result["source"] == "vmcore"
    assert result["target"]["release"].startswith("6.1.")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (struct.pack("<I", 0x184D2204), "lz4 -dc"),
        (b"LibvirtQemudSave", "--memory-only"),
        (struct.pack("<IIQQ8x", 0x4C694D45, 1, 32, (1 << 16) - 1), "--vmcoreinfo"),
        (b"", "neither a vmcore nor a kernel's log"),
    ],
)
def test_other_files_are_named(start: bytes, words: str, cli: Cli, small: Any) -> None:
    assert words in complaint(cli("triage", small(start.ljust(1 << 16, b"\0"))))


def of_letters(seed: int) -> bytes:
    """Make data that is no text, most of it letters: as programs, databases and packed fonts have it."""
    choose = random.Random(seed)
    return b"".join(b"some words of a table " + choose.randbytes(3) for _ in range(2000))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (of_letters(1), "neither a vmcore nor a kernel's log"),
        (b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(5000), "neither a vmcore nor a kernel's log"),
        (b"SQLite format 3\0" + of_letters(3), "neither a vmcore nor a kernel's log"),
        (random.Random(4).randbytes(70_000), "neither a vmcore nor a kernel's log"),
        (b"PK\x03\x04" + of_letters(5), "unzip"),
        (b"7z\xbc\xaf\x27\x1c" + b"letters " * 9000, "7z x"),
        (b"<!DOCTYPE html><title>Sign in</title>" + b"<p>Please sign in</p>" * 90, "a page"),
    ],
    ids=["letters", "png", "sqlite", "random", "zip", "7z", "page"],
)
def test_binary_files_are_no_logs(data: bytes, words: str, cli: Cli, small: Any) -> None:
    assert words in complaint(cli("triage", small(data)))
    assert words in complaint(cli("triage", small(gzip.compress(data))))


LINES = "[    1.000000] Linux version 6.1.0 (gcc)\n[  100.{:06d}] usb 1-1: Gerät angeschlossen ✓ 日本語\n"


@pytest.mark.parametrize("noise", [b"", b"\x80\xff\xfe\x01" * 500, b"\0" * 40, b"\x1b[0m\x07\x08" * 300])
def test_logs_with_noise_are_logs(noise: bytes, cli: Cli, small: Any) -> None:
    text = noise + b"\n" + "".join(LINES.format(number) for number in range(200)).encode()
    done = cli("triage", small(text), "--format", "json")
    (result,) = done.json()
    assert result["source"] == "log" and result["boot"]["release"] == "6.1.0"


def test_what_is_no_file_is_named(cli: Cli, tmp_path: Path) -> None:
    assert "is a directory" in complaint(cli("triage", str(tmp_path)))
    assert "No such file" in complaint(cli("triage", str(tmp_path / "none")))
    assert complaint(cli("triage", "/dev/null")).endswith("/dev/null: is a device; give a vmcore or a log")


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_packed_logs_that_are_cut_say_so(cut: int, cli: Cli, small: Any) -> None:
    text = "".join(LINES.format(number) for number in range(2000)).encode()
    packed = (gzip.compress(text), bz2.compress(text), lzma.compress(text), zstandard.ZstdCompressor().compress(text))
    for data in packed:
        assert cli("triage", small(data), "--format", "json").json()[0]["source"] == "log"
        assert "cut short" in complaint(cli("triage", small(data[:-cut])))


def test_vmcore_that_is_cut_explains_nothing(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    data = unpacked(AMD64_HEALTHY).read_bytes()
    done = cli("triage", small(data[:-1]), "--format", "json")
    (result,) = done.json()
    assert "truncated" in result["target"]["incomplete"]
    assert done.status == 2
    assert "truncated" in done.err.splitlines()[0]
