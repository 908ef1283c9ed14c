# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel images and the symbols in them, made by hand."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from typing import Callable

import pytest
import zstandard

from contrib.explore.cpu import AMD64
from contrib.explore.image import Image, Segment, read_image
from contrib.explore.symbols import Symbols, read_kallsyms
from contrib.kernels.errors import HarnessError

TEXT = 0xFFFFFFFF81000000


def elf(payload: bytes) -> bytes:
    """Return an ELF file with one segment."""
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", 1, 7, 120, TEXT, 0x1000000, len(payload), len(payload) + 8, 4096)
    return ident + header + program + payload


def bzimage(payload: bytes) -> bytes:
    """Return an image whose protected-mode part is a payload."""
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    setup[0x201:0x206] = b"\x6aHdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    return bytes(setup) + bytes(16) + payload


def lz4(data: bytes) -> bytes:
    if shutil.which("lz4") is None:
        pytest.skip("lz4 is not installed")
    return subprocess.run(["lz4", "-lc"], input=data, capture_output=True, check=True).stdout


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "lz4": lz4,
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_the_kernel_is_found_whatever_compressed_it(name: str) -> None:
    vmlinux = elf(b"code" * 5000)
    # The size follows, as the kernel's build has it.
    image = read_image(bzimage(COMPRESSORS[name](vmlinux) + struct.pack("<I", len(vmlinux))))
    (segment,) = image.segments
    assert (image.entry, segment.virtual, segment.physical) == (0x1000000, TEXT, 0x1000000)
    assert segment.data == b"code" * 5000 and segment.memory_size == 20008
    assert image.header.startswith(b"\x01") and b"HdrS" in image.header


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "neither"),
        (b"#!/bin/sh", "neither"),
        (bzimage(b"\x1f\x8bnothing"), "damaged"),
        (bzimage(b"no ELF"), "no ELF"),
        (bzimage(gzip.compress(elf(b"x")))[:-8], "cut short"),
        (elf(b"x" * 100)[:130], "cut short"),
        (elf(b"x").replace(b"\x3e\0", b"\x15\0"), "is not of amd64, i386, arm64"),
        (b"\x7fELF\x02\x01", "damaged"),
    ],
)
def test_what_is_no_kernel_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(HarnessError, match=text):
        read_image(data)


def test_a_bomb_does_not_fill_the_machine() -> None:
    with pytest.raises(HarnessError):
        read_image(bzimage(gzip.compress(bytes(1 << 20))))


NAMES = ["T_text", "T_stext", *(f"tfunction_{n}" for n in range(4998)), "Tstart_kernel", "Dtable"]
ADDRESSES = [TEXT, TEXT, *(TEXT + 16 * n for n in range(1, 4999)), TEXT + 0x200000, TEXT + 0x300004]
assert len(NAMES) == len(ADDRESSES)


def kallsyms(order: str) -> bytes:
    """Return the tables as a kernel has them: "5.10", "6.1" (stable), "6.4", "7.0", or "7.0" four bytes on."""

    def aligned(data: bytes, size: int = 8) -> bytes:
        return data + bytes(-len(data) % size)

    # Every byte is a token of its own.
    tokens = [bytes([code]) if 33 <= code < 127 else b"?" for code in range(256)]
    starts = [sum(len(token) + 1 for token in tokens[:code]) for code in range(256)]
    names, markers = b"", []
    for index, name in enumerate(NAMES):
        if index % 256 == 0:
            markers.append(len(names))
        names += bytes([len(name)]) + name.encode()
    count = aligned(struct.pack("<I", len(NAMES)))
    middle = aligned(names) + aligned(struct.pack(f"<{len(markers)}I", *markers))
    seqs = aligned(b"".join(index.to_bytes(3, "big") for index in range(len(NAMES))))
    table = aligned(b"".join(token + b"\0" for token in tokens)) + struct.pack("<256H", *starts)
    base = struct.pack("<Q", TEXT)
    # CONFIG_KALLSYMS_ABSOLUTE_PERCPU.
    offsets = struct.pack(f"<{len(NAMES)}i", *(TEXT - 1 - address for address in ADDRESSES))
    prefix = bytes(64)
    if order in ("5.10", "6.1"):
        return prefix + aligned(offsets) + base + count + middle + (seqs if order == "6.1" else b"") + table
    head = prefix + count + middle + table
    if order == "6.4":
        return head + aligned(offsets) + base + seqs
    # Until here all is aligned to 8 bytes; kernels align this to 4.
    head += bytes(4 if order == "7.0+4" else 0)
    here = TEXT + len(head)
    relative = [address - here - 4 * index for index, address in enumerate(ADDRESSES)]
    return head + struct.pack(f"<{len(NAMES)}i", *relative) + seqs


@pytest.mark.parametrize("order", ["5.10", "6.1", "6.4", "7.0", "7.0+4"])
def test_kallsyms_are_read_in_every_order_that_kernels_have_them_in(order: str) -> None:
    data = kallsyms(order)
    symbols = read_kallsyms(Image(AMD64, 0, (Segment(TEXT, 0x1000000, data, len(data)),), b"", {}))
    assert symbols.addresses == {name[1:]: address for name, address in zip(NAMES, ADDRESSES)}


def test_an_image_without_kallsyms_says_what_to_give() -> None:
    data = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0" * 100
    with pytest.raises(HarnessError, match=r"System\.map"):
        read_kallsyms(Image(AMD64, 0, (Segment(TEXT, 0x1000000, data, len(data)),), b"", {}))


def test_an_address_belongs_to_the_symbol_before_it() -> None:
    symbols = Symbols({"one": 0x1000, "two": 0x1100})
    assert [symbols.name(address) for address in (0x1000, 0x10FF, 0x1100, 0xFFF)] == ["one", "one", "two", "0xfff"]
    assert symbols.size("one") == 0x100
    with pytest.raises(HarnessError, match="no symbol three"):
        symbols.need("three")
