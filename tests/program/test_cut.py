# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file that was cut anywhere is never taken as whole, whatever its format and whatever it is packed in."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
from pathlib import Path
from random import Random
from typing import Callable

import pytest
import zstandard

from mminspect.errors import TargetError
from mminspect.program import corefile, elf, unpack
from mminspect.program.elf import Elf, Header, Segment
from mminspect.program.wrapping import START, is_wrapped
from tests.kit.dumps import BLOCK, flatten, make_kdump

RANDOM = Random(16)


def _memory(pages: int) -> bytes:
    return b"".join(RANDOM.randbytes(BLOCK) for _ in range(pages))


def _elf() -> bytes:
    """Make an ELF core of one segment, which holds more than zlib's window."""
    codec, data = Elf(True, "<"), _memory(24)
    start = codec.header_size + codec.segment_size
    header = Header(
        elf.ET_CORE, 62, phoff=codec.header_size, ehsize=codec.header_size, phentsize=codec.segment_size, phnum=1
    )
    segment = Segment(start, 0, 0, len(data), len(data))
    return codec.pack_header(header) + codec.pack_segment(segment) + data


def _lime() -> bytes:
    data = _memory(8)
    ranges = ((0, data), (1 << 20, data))
    return b"".join(struct.pack("<4sIQQQ", b"EMiL", 1, a, a + len(d) - 1, 0) + d for a, d in ranges)


CORES = {
    "elf": _elf(),
    "kdump": make_kdump({pfn: (_memory(1), 0) for pfn in range(3, 20)}, 64).data,
    "lime": _lime(),
}
PLAIN = {**CORES, **{f"flattened-{name}": flatten(CORES[name], (9000, 40000)) for name in ("elf", "kdump")}}


def _zstd(data: bytes, **options: bool) -> bytes:
    packer = zstandard.ZstdCompressor(level=1, **options).compressobj()
    return packer.compress(data) + packer.flush()


def _tar(data: bytes) -> bytes:
    """Make an archive of a vmcore between two logs, without the padding behind its end mark."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("log", b"a log"), ("vmcore", data), ("other", b"x" * 2000)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        end = archive.offset
    return buffer.getvalue()[: end + tarfile.BLOCKSIZE]


def _halves(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: pack(data[: len(data) // 2]) + pack(data[len(data) // 2 :])


def _of_tar(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: pack(_tar(data))


ONE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "gzip-stored": lambda data: gzip.compress(data, 0),
    "xz": lambda data: lzma.compress(data, preset=0),
    "xz-no-check": lambda data: lzma.compress(data, preset=0, check=lzma.CHECK_NONE),
    "bzip2": lambda data: bz2.compress(data, 1),
    "zstd": lambda data: zstandard.ZstdCompressor(level=1).compress(data),
    "zstd-stream": _zstd,
    "zstd-checksum": lambda data: _zstd(data, write_checksum=True),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    **ONE,
    **{f"two of {name}": _halves(pack) for name, pack in ONE.items()},
    "tar": _tar,
    **{f"tar-{name}": _of_tar(pack) for name, pack in ONE.items()},
    "gzip-in-tar": lambda data: _tar(gzip.compress(data, 1)),
    "gzip-in-zstd": lambda data: _zstd(gzip.compress(data, 1)),
}


def places(size: int) -> list[int]:
    """Choose places to cut a file at: all near its start and its end, and some between."""
    near = 80
    return sorted({*range(1, near), *range(size - near, size), *(RANDOM.randrange(1, size) for _ in range(60))})


def is_taken_as_whole(path: Path) -> bool:
    """Tell whether a file is read without a word about its end."""
    fd = os.open(path, os.O_RDONLY)
    try:
        while is_wrapped(os.pread(fd, START, 0)):
            inner = unpack.unpack(fd, str(path))
            os.close(fd)
            fd = inner
        return corefile.parse(fd, str(path)).incomplete is None
    except TargetError:
        return False
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_file_that_is_cut_anywhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(PLAIN[name])
    assert is_taken_as_whole(path)
    for size in reversed(places(len(PLAIN[name]))):
        os.truncate(path, size)
        assert not is_taken_as_whole(path), size


@pytest.mark.parametrize("packer", PACKERS)
def test_packed_file_that_is_cut_anywhere(packer: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    for core in CORES.values():
        data = PACKERS[packer](core)
        path.write_bytes(data)
        assert is_taken_as_whole(path)
        for size in reversed(places(len(data))):
            os.truncate(path, size)
            assert not is_taken_as_whole(path), size


@pytest.mark.parametrize("packer", ["gzip", "xz", "zstd-checksum", "bzip2"])
@pytest.mark.parametrize("name", ["elf", "tar"])
def test_checksum_at_the_end_is_looked_at(packer: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    data = bytearray(PACKERS[packer](_tar(CORES["elf"]) if name == "tar" else CORES["elf"]))
    at = {"gzip": -8, "xz": -12, "zstd-checksum": -4, "bzip2": -4}[packer]
    data[at] ^= 0x10
    path.write_bytes(data)
    assert not is_taken_as_whole(path)


def test_damaged_header_is_not_the_end_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    data = bytearray(_tar(CORES["elf"]))
    data[data.index(b"other") + 1] ^= 1
    path.write_bytes(data)
    assert not is_taken_as_whole(path)
