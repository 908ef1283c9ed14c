# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are no vmcore, or are damaged or cut, are refused in one line that says what is wrong."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, Edited, complaint
from tests.kit.support import AMD64_HEALTHY, I386_HOLE, S390X, elf_core


def test_no_such_file(refused: Any, tmp_path: Path) -> None:
    assert refused(tmp_path / "missing") == f"{tmp_path}/missing: No such file or directory"


def test_file_in_a_directory_that_is_a_file(refused: Any, small: Any) -> None:
    assert "Not a directory" in refused(small(b"x") / "below")


def test_directory(refused: Any, tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)


def test_empty_file(refused: Any, small: Any) -> None:
    assert "empty" in refused(small(b""))


def test_text_file(refused: Any, small: Any) -> None:
    assert "not a vmcore" in refused(small(b"Hello, world\n" * 1000))


@pytest.mark.parametrize("size", [1, 3, 4, 15, 16])
def test_short_file(refused: Any, small: Any, size: int) -> None:
    refused(small(b"\x7fELF\2\1\1\0\0\0\0\0\0\0\0\0"[:size]))


def test_device(refused: Any) -> None:
    assert "not a regular file" in refused("/dev/null")


def test_fifo_does_not_hang(refused: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in refused(tmp_path / "fifo")


def test_file_that_may_not_be_read(refused: Any, small: Any) -> None:
    path = small(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read every file")
    assert "Permission denied" in refused(path)


def test_elf_executable(refused: Any) -> None:
    message = refused(os.path.realpath(sys.executable))
    assert "not a core" in message
    assert "-s" in message


def test_core_of_a_user_process(refused: Any, small: Any) -> None:
    prstatus = bytes(336)
    data = elf_core([("CORE", prstatus), ("CORE", bytes(136))], [(0x400000, bytes(4096))])
    assert "user process" in refused(small(data))


def test_qemu_dump_without_vmcoreinfo_says_how_to_get_one(refused: Any, small: Any) -> None:
    data = elf_core([("CORE", bytes(336)), ("QEMU", bytes(440))], [(0, bytes(4096))])
    message = refused(small(data))
    assert "no VMCOREINFO" in message
    assert "-device vmcoreinfo" in message


def test_core_without_memory(refused: Any, small: Any) -> None:
    assert "no memory" in refused(small(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [])))


def test_vmcoreinfo_of_nothing(refused: Any, small: Any) -> None:
    refused(small(elf_core([("VMCOREINFO", b"")], [(0xFFFF888000000000, bytes(4096))])))


def test_vmcoreinfo_of_noise(refused: Any, small: Any) -> None:
    noise = b"OSRELEASE=6.1.0\nPAGESIZE=banana\nSYMBOL(_stext)=xyz\n=\n\xff\xfe\n"
    refused(small(elf_core([("VMCOREINFO", noise)], [(0xFFFF888000000000, bytes(4096))])))


def test_program_headers_that_can_not_be(refused: Any, small: Any) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<H", data, 54, 7)
    assert "program header table" in refused(small(bytes(data)))


def test_program_headers_behind_the_end(refused: Any, small: Any) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<Q", data, 32, 1 << 60)
    refused(small(bytes(data)))


def test_program_header_count_in_a_section_header_that_is_not_there(refused: Any, small: Any) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<H", data, 56, 0xFFFF)
    struct.pack_into("<Q", data, 40, 1 << 40)
    refused(small(bytes(data)))


@pytest.mark.parametrize("offset", [1 << 40, (1 << 63) + 1, (1 << 64) - 1])
def test_segment_behind_the_end(refused: Any, small: Any, offset: int) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<Q", data, 64 + 56 + 8, offset)
    assert "truncated" in refused(small(bytes(data)))


@pytest.mark.parametrize("size", [1 << 31, (1 << 32) - 1])
def test_note_larger_than_the_notes(refused: Any, small: Any, size: int) -> None:
    data = bytearray(elf_core([("VMCOREINFO", b"OSRELEASE=6.1.0\n")], [(0, bytes(16))]))
    struct.pack_into("<I", data, 64 + 56 * 2 + 4, size)
    refused(small(bytes(data)))


def test_kdump_header_of_zeros(refused: Any, small: Any) -> None:
    assert "kdump" in refused(small(b"KDUMP   " + bytes(8192)))


@pytest.mark.parametrize("size", [8, 100, 511])
def test_kdump_header_that_is_cut(refused: Any, small: Any, size: int) -> None:
    refused(small((b"KDUMP   " + bytes(600))[:size]))


@pytest.mark.parametrize("size", [16, 4096, 4100, 8192])
def test_flattened_dump_that_is_cut(refused: Any, small: Any, size: int) -> None:
    data = b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1)
    assert "truncated" in refused(small((data + bytes(4096 - len(data)) + struct.pack(">qq", 0, 1 << 20))[:size]))


@pytest.mark.parametrize(("offset", "length"), [(-2, 16), (0, -1), (0, 0)])
def test_flattened_dump_with_a_record_that_can_not_be(refused: Any, small: Any, offset: int, length: int) -> None:
    data = b"makedumpfile\0\0\0\0" + bytes(4080) + struct.pack(">qq", offset, length) + bytes(64)
    assert "damaged" in refused(small(data))


def offsets(size: int, notes_at: int) -> list[int]:
    """Choose places to cut a core: inside headers, notes and memory, and right before the end."""
    headers = [1, 4, 15, 16, 17, 51, 52, 63, 64, 65, 100, 119, 120, 121, 500]
    notes = [notes_at - 1, notes_at, notes_at + 1, notes_at + 12, notes_at + 20, notes_at + 1000, notes_at + 3000]
    data = [size * part // 20 for part in range(1, 20)]
    return sorted({*headers, *notes, *data, size - 4096, size - 2, size - 1})


@pytest.mark.parametrize("name", [AMD64_HEALTHY, I386_HOLE, S390X])
def test_core_that_is_cut_anywhere(name: str, cli: Cli, edited: Edited) -> None:
    core = edited(name)
    size = core.path.stat().st_size
    for offset in reversed(offsets(size, core.segments[0].offset)):
        os.truncate(core.path, offset)
        done = cli("-c", core.path, "scan")
        # As far as enough is left for a report, it is one of a dump that is not whole, and says so first.
        message = done.err.splitlines()[0] if done.out else complaint(done)
        assert done.status in (1, 2), offset
        assert str(core.path) in message, offset
        assert not done.out or ("truncated" in message and "not whole: truncated" in done.out), offset


def test_core_that_can_not_be_read_is_named(refused: Any) -> None:
    assert refused("/proc/self/mem").startswith("/proc/self/mem: can't be read: ")
