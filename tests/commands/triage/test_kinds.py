# SPDX-License-Identifier: LGPL-2.1-or-later
"""Triage reads vmcores in every wrapping that scan reads, and names what is neither a vmcore nor a log."""

from __future__ import annotations

import bz2
import io
import struct
import tarfile
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


def test_vmcore_that_is_cut_explains_nothing(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    data = unpacked(AMD64_HEALTHY).read_bytes()
    done = cli("triage", small(data[:-1]), "--format", "json")
    (result,) = done.json()
    assert "truncated" in result["target"]["incomplete"]
    assert done.status == 2
    assert "truncated" in done.err.splitlines()[0]
