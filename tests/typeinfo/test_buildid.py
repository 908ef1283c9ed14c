# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build IDs of ELF files."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mminspect.errors import TypeInfoError
from mminspect.typeinfo.buildid import read_build_id


def vmlinux(order: str, wide: bool, notes: bytes) -> bytes:
    """Make an ELF file with an empty section and one of notes, behind the headers."""
    header_size, entry_size = (64, 64) if wide else (52, 40)
    word = "Q" if wide else "I"
    ident = b"\x7fELF" + bytes((2 if wide else 1, 1 if order == "<" else 2, 1)) + bytes(9)
    fields = (2, 62, 1, 0, 0, header_size, 0, header_size, 0, 0, entry_size, 2, 0)
    data = ident + struct.pack(f"{order}HHI{3 * word}IHHHHHH", *fields) + bytes(entry_size)
    section = (1, 7, 0, 0, header_size + 2 * entry_size, len(notes), 0, 0, 4, 0)
    return data + struct.pack(f"{order}II{4 * word}II{2 * word}", *section) + notes


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("wide", [True, False])
def test_build_id_is_that_of_the_note(order: str, wide: bool, tmp_path: Path) -> None:
    other = struct.pack(order + "III", 6, 4, 3) + b"Linux\0\0\0" + b"abcd"
    note = struct.pack(order + "III", 4, 20, 3) + b"GNU\0" + bytes(range(20))
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux(order, wide, other + note))
    assert read_build_id(str(path)) == "000102030405060708090a0b0c0d0e0f10111213"
    path.write_bytes(vmlinux(order, wide, other))
    assert read_build_id(str(path)) is None
    # A note that is cut short says nothing.
    path.write_bytes(vmlinux(order, wide, other + note[:-1]))
    assert read_build_id(str(path)) is None


def test_build_id_of_a_program_is_the_one_that_readelf_shows() -> None:
    tool = shutil.which("readelf")
    if tool is None:
        pytest.skip("readelf is not installed")
    path = str(Path(sys.executable).resolve())
    shown = subprocess.run([tool, "-n", path], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout
    match = re.search(r"Build ID: ([0-9a-f]+)", shown)
    assert read_build_id(path) == (match and match.group(1))


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n" * 10, b"\x7fELF\2\1\1" + bytes(56)])
def test_file_that_is_no_elf_file(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(data)
    with pytest.raises(TypeInfoError, match="not an ELF file"):
        read_build_id(str(path))
