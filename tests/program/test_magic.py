# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that people take for a vmcore are named, with the one thing to do."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from mminspect.program.elf import ET_CORE, SHT_STRTAB, Elf, Header, Note
from mminspect.program.magic import KNOWN, SIZE, explain, known, plain
from tests.conftest import Cli, complaint
from tests.kit.dumps import VMCOREINFO, make_kdump
from tests.kit.support import elf_core

WRONG_ADVICE = ("copy the dump again", "install", "debug package")

# How files begin, by their formats' own specifications, and words that the line must have.
STARTS = [
    (struct.pack("<I", 0x184D2204), "lz4 -dc"),
    (struct.pack("<I", 0x184C2102), "lz4 -dc"),
    (bytes([0x89, 0x4C, 0x5A, 0x4F, 0, 13, 10, 26, 10]), "lzop -dc"),
    (b"LZIP\1", "lzip -dc"),
    (b"\x5d\0\0\x80\0", "lzma"),
    (b"\x1f\x9d\x90", "zcat"),
    (b"PK\3\4\x14\0", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "7z x"),
    (b"Rar!\x1a\x07\1\0", "unrar"),
    (b"07070100", "cpio"),
    (b"!<arch>\ndebian-binary", "dpkg-deb"),
    (b"\xed\xab\xee\xdb\3", "rpm2cpio"),
    (b"LibvirtQemudSave" + struct.pack("<5I", 2, 1024, 1, 0, 0), "--memory-only"),
    (b"QEVM\0\0\0\3", "--memory-only"),
    (b"QFI\xfb\0\0\0\3", "/var/crash"),
    (struct.pack("<III", 0xBED2BED2, 8, 10), "vmss2core"),
    (struct.pack("<I", 0xBAD1BAD1), "vmss2core"),
    (b"\x7fVirtualBox SavedState V2.0\n", "dumpvmcore"),
    (struct.pack("<I", 0xF00FEBED), "Xen"),
    (b"LinuxGuestRecord", "saved Xen domain"),
    (b"Xen saved domain, xl format\n", "saved Xen domain"),
    (struct.pack("<I", 0x4C4D5641), "avml-convert"),
    (b"EVF\x09\x0d\x0a\xff\x00", "ewfexport"),
    (struct.pack("<Q", 0xA8190173618F23ED), "crash"),
    (struct.pack(">Q", 0xA8190173618F23FD), "zgetdump"),
    (struct.pack("<II", 0x75646173, 0x0000706D), "makedumpfile"),
    (b"PAGEDU64", "Linux only"),
    (b"minidump FreeBSD/amd64", "Linux only"),
    (struct.pack("<I", 0xDEFEC8ED), "Linux only"),
    (struct.pack("<I", 0xFEEDFACF), "Linux only"),
    (bytes(4086) + b"S1SUSPEND\0", "hibernated"),
    (bytes(4086) + b"SWAPSPACE2", "swap space"),
    (bytes(32769) + b"CD001", "ISO image"),
    (bytes(0x202) + b"HdrS", "kernel image"),
    (b"\x9f\xeb\1\0", "--btf"),
    (VMCOREINFO, "--vmcoreinfo"),
    (b"LPKSHHRH\0\0\0\0", "journalctl --file"),
    (b"SQLite format 3\0\x10\0", "SQLite"),
    (b"%PDF-1.7\n", "PDF"),
    (bytes([0x89, 0x50, 0x4E, 0x47, 13, 10, 26, 10]), "a picture"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a picture"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"<!DOCTYPE html>", "web page"),
    (b"[    0.000000] Linux version 6.1.0\n", "kernel log"),
    (b"Linux version 6.1.0\n", "kernel log"),
    (bytes(64), "--vmcoreinfo"),
]


@pytest.mark.parametrize(("start", "words"), STARTS)
def test_known_files_are_named(start: bytes, words: str, refused: Any, small: Any) -> None:
    message = refused(small(start.ljust(SIZE + 100, b"\0")))
    assert "not a vmcore" in message
    assert words in message
    assert not any(advice in message for advice in WRONG_ADVICE)


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.what)
def test_no_kind_hides_another(kind: Any) -> None:
    for start in kind.starts:
        data = bytes(kind.offset) + start
        assert len(data) <= SIZE
        assert known(data.ljust(SIZE, b"\0")) is kind


def test_name_of_a_file_that_would_be_a_command() -> None:
    start = struct.pack("<I", 0x184D2204)
    assert "lz4 -dc /a/b.lz4 >" in explain(start, "/a/b.lz4")
    assert "lz4 -dc FILE >" in explain(start, "/a/b; rm *")


@pytest.mark.parametrize(
    ("text", "expected"), [(b"a\x1b[31m\n\xff\0b", "a?[31m?\ufffd?b"), ("x" * 50, "x" * 7 + "...")]
)
def test_what_a_file_says_is_plain_and_short(text: Any, expected: str) -> None:
    line = plain(text, 10)
    assert line == expected
    assert len(line) <= 10


def test_core_of_a_xen_guest(refused: Any, small: Any) -> None:
    elf = Elf(True, "<")
    names = b"\0.shstrtab\0.note.Xen\0.xen_pages\0.xen_p2m\0"
    header = elf.pack_header(Header(ET_CORE, 62, shoff=64, shentsize=64, shnum=2, shstrndx=1))
    section = struct.pack("<IIQQQQIIQQ", 1, SHT_STRTAB, 0, 0, 192, len(names), 0, 0, 1, 0)
    message = refused(small(header + bytes(64) + section + names + bytes(4096)))
    assert "xl dump-core" in message and "copy" not in message


def test_dump_of_a_xen_host(refused: Any, small: Any) -> None:
    data = elf_core([("VMCOREINFO", VMCOREINFO), ("VMCOREINFO_XEN", b"X=1\n")], [(0, bytes(4096))])
    assert "Xen host" in refused(small(data))


def test_core_of_virtualbox(refused: Any, small: Any) -> None:
    message = refused(small(elf_core([("VBCORE", bytes(16)), ("VBCPU", bytes(512))], [(0x1000, bytes(4096))])))
    assert "dumpvmcore" in message and "--vmcoreinfo" in message


def test_kdump_without_vmcoreinfo(refused: Any, small: Any) -> None:
    message = refused(small(make_kdump({1: (bytes(4096), 0)}, 8, info=b"").data))
    assert "--vmcoreinfo" in message and "-device vmcoreinfo" in message


def test_lime_file_without_vmcoreinfo(refused: Any, small: Any) -> None:
    message = refused(small(struct.pack("<IIQQ8x", 0x4C694D45, 1, 0x1000, 0x1FFF) + bytes(4096)))
    assert "LiME" in message and "--vmcoreinfo" in message


def test_vmcoreinfo_that_is_none(cli: Cli, small: Any, tmp_path: Any) -> None:
    path = small(make_kdump({1: (bytes(4096), 0)}, 8, info=b"").data)
    (tmp_path / "info").write_bytes(b"hello")
    for name in ("info", "missing", "."):
        message = complaint(cli("-c", path, "--vmcoreinfo", tmp_path / name, "scan"))
        assert str(tmp_path / name) in message


@pytest.mark.parametrize("order", ["<", ">"])
def test_note_is_found_in_memory(order: str) -> None:
    from mminspect.program.findinfo import search

    note = Elf(True, order).pack_note(Note("VMCOREINFO", 0, VMCOREINFO))
    later = Elf(True, order).pack_note(Note("VMCOREINFO", 0, VMCOREINFO + b"CRASHTIME=1\n"))
    other = Elf(True, order).pack_note(Note("VMCOREINFO", 0, VMCOREINFO.replace(b"6.12", b"6.13")))
    page = note.ljust(4096, b"\0")
    assert search([(bytes(8192) + page, b"")]) == [VMCOREINFO]
    # Where it is not at the start of a page, it is no kernel's.
    assert search([(bytes(100) + note.ljust(8092, b"\0"), b"")]) == []
    assert search([(page + later.ljust(4096, b"\0"), b"")]) == [VMCOREINFO + b"CRASHTIME=1\n"]
    assert len(search([(page, b""), (other.ljust(4096, b"\0"), b"")])) == 2
    # It can be longer than a page, and than what is read at once.
    long = Elf(True, order).pack_note(Note("VMCOREINFO", 0, VMCOREINFO.ljust(5000, b"x")))
    assert search([(long[:4096], long[4096:])]) == [VMCOREINFO.ljust(5000, b"x")]


@pytest.mark.parametrize(
    ("start", "raw"),
    [
        (b"some words of a text\n", False),
        (b"tabs\tand\r\nlines", False),
        (b" ~", False),
        (b"a text\x1f", True),
        (b"a text\x7f", True),
        (b"\0" * 64, True),
        (b"", True),
    ],
)
def test_only_what_is_no_text_can_be_raw_memory(start: bytes, raw: bool) -> None:
    assert ("raw physical memory" in explain(start, "file")) is raw
