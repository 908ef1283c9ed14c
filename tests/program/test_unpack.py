# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed vmcores that are cut or damaged, and compressed files that are none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from typing import Any

import pytest
import zstandard

from mminspect.program import unpack
from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_HEALTHY

COMPRESSORS = {
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "bz2": lambda data: bz2.compress(data, 1),
    "zst": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
}


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_core_that_is_cut(ending: str, cli: Cli, unpacked: Unpacked, small: Any) -> None:
    data = COMPRESSORS[ending](unpacked(AMD64_HEALTHY).read_bytes()[: 1 << 20])
    for size in (4, 6, 10, 18, 100, len(data) // 2, len(data) - 5, len(data) - 1):
        message = complaint(cli("-c", small(data[:size]), "scan"))
        assert any(word in message for word in ("cut short", "not a vmcore", "truncated", "nothing")), (size, message)


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_core_that_is_damaged(ending: str, cli: Cli, unpacked: Unpacked, small: Any) -> None:
    data = COMPRESSORS[ending](unpacked(AMD64_HEALTHY).read_bytes()[: 1 << 20])
    for at in (12, len(data) // 3, len(data) // 2, len(data) - 8):
        damaged = bytearray(data)
        damaged[at : at + 4] = bytes(b ^ 0xFF for b in damaged[at : at + 4])
        complaint(cli("-c", small(bytes(damaged)), "scan"))


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_text(ending: str, refused: Any, small: Any) -> None:
    assert "not a vmcore" in refused(small(COMPRESSORS[ending](b"Hello, world\n" * 100)))


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_nothing(ending: str, refused: Any, small: Any) -> None:
    assert "nothing" in refused(small(COMPRESSORS[ending](b"")))


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_core_is_read(ending: str, cli: Cli, unpacked: Unpacked, small: Any) -> None:
    path = small(COMPRESSORS[ending](unpacked(AMD64_HEALTHY).read_bytes()))
    assert cli("-c", path, "scan").status == 0


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    """Make a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        directory = tarfile.TarInfo("127.0.0.1-2026-01-01")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        archive.addfile(tarfile.TarInfo("a-directory/"))
    return buffer.getvalue()


LOG = "127.0.0.1-2026-01-01/vmcore-dmesg.txt"
CORE = "127.0.0.1-2026-01-01/vmcore"


@pytest.mark.parametrize("ending", ["", *COMPRESSORS])
def test_archive_with_one_vmcore_is_read(ending: str, cli: Cli, unpacked: Unpacked, small: Any) -> None:
    members = {f"{LOG}.gz": gzip.compress(b"a log"), CORE: unpacked(AMD64_HEALTHY).read_bytes(), LOG: b"a log"}
    done = cli("-c", small(COMPRESSORS.get(ending, bytes)(tar(members))), "scan")
    assert (done.status, done.err) == (0, "")


def test_archive_with_a_compressed_vmcore_is_read(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    members = {LOG: b"a log", f"{CORE}.gz": gzip.compress(unpacked(AMD64_HEALTHY).read_bytes(), 1)}
    assert cli("-c", small(tar(members, "w:gz")), "scan").status == 0


def test_archive_without_a_vmcore(refused: Any, small: Any) -> None:
    assert "tar archive with no vmcore" in refused(small(tar({LOG: b"a log", "vmlinux": b"\x7fELF" + bytes(100)})))


def test_archive_with_several_vmcores_names_them_in_plain_words(refused: Any, small: Any) -> None:
    members = {f"{number}\x1b[31m{'x' * 200}/vmcore": b"KDUMP   " + bytes(600) for number in range(9)}
    message = refused(small(tar(members)))
    assert "9 files that can be the vmcore (0?[31mx" in message
    assert len(message) < 1000 and message.isprintable()


def test_archive_that_is_cut(refused: Any, small: Any, unpacked: Unpacked) -> None:
    data = tar({CORE: unpacked(AMD64_HEALTHY).read_bytes()})
    assert "cut short" in refused(small(data[: len(data) // 2]))


def zstd_window(log: int, data: bytes) -> bytes:
    """Compress as ``zstd --long`` does."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


def test_zstd_with_a_long_window_is_read(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    assert cli("-c", small(zstd_window(28, unpacked(AMD64_HEALTHY).read_bytes())), "scan").status == 0


def test_zstd_with_a_longer_window_names_the_option(refused: Any, small: Any) -> None:
    message = refused(small(zstd_window(29, b"KDUMP   " * 1000)))
    assert "512 MiB" in message and "--long=29" in message and "copy" not in message


def test_xz_that_takes_too_much_memory_says_so(refused: Any, small: Any) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    message = refused(small(lzma.compress(b"KDUMP   " * 1000, filters=filters)))
    assert "256 MiB" in message and "xz -d" in message and "copy" not in message


def test_xz_of_several_streams_with_padding(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    data = unpacked(AMD64_HEALTHY).read_bytes()
    half = len(data) // 2
    packed = lzma.compress(data[:half], preset=0) + bytes(8) + lzma.compress(data[half:], preset=0)
    assert cli("-c", small(packed), "scan").status == 0


def test_too_little_room(refused: Any, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "LOOK_AFTER", 1)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result((4096, 4096, 1000, 9, 9, 1, 1, 1, 0, 255)))
    assert "TMPDIR" in refused(small(gzip.compress(b"KDUMP   " * 1000)))


def test_more_than_any_dump(refused: Any, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_SIZE", 1 << 20)
    assert "larger than any dump" in refused(small(gzip.compress(bytes(3 << 20))))


def test_wrapped_too_often(refused: Any, small: Any) -> None:
    data = b"KDUMP   "
    for _ in range(6):
        data = gzip.compress(data)
    assert "not a vmcore" in refused(small(data))


def test_archive_with_two_vmcores_is_refused_too(refused: Any, small: Any) -> None:
    members = {f"{number}/vmcore": b"KDUMP   " + bytes(600) for number in range(2)}
    assert "2 files that can be the vmcore (0/vmcore, 1/vmcore);" in refused(small(tar(members)))


def test_nothing_behind_what_the_headers_promise_is_unpacked(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    # A copy of a partition has the dump at its start.
    core = unpacked(AMD64_HEALTHY).read_bytes()
    path = small(gzip.compress(core + bytes(300 << 20), 1))
    with open(path, "rb") as file:
        fd = unpack.unpack(file.fileno(), path)
    try:
        assert len(core) <= os.fstat(fd).st_size <= len(core) + (65 << 20)
    finally:
        os.close(fd)
    assert cli("-c", path, "scan").status == 0


def test_headers_that_promise_more_than_any_dump(refused: Any, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "promised", lambda start: unpack.MAX_SIZE + 1)
    assert "headers say" in refused(small(gzip.compress(b"KDUMP   " * 1000)))


def test_packed_file_larger_than_the_room_is_refused_at_once(
    refused: Any, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result((4096, 4096, 1000, 70, 70, 1, 1, 1, 0, 255)))
    assert "TMPDIR" in refused(small(gzip.compress(b"KDUMP   " + os.urandom(300_000))))
