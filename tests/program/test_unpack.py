# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed vmcores that are cut or damaged, and compressed files that are none."""

from __future__ import annotations

import gzip
import lzma
from typing import Any

import pytest
import zstandard

from tests.conftest import Cli, Unpacked, complaint
from tests.kit.support import AMD64_HEALTHY

COMPRESSORS = {
    "gz": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
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
