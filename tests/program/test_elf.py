# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF headers and notes: against bytes made by hand, against readelf, and there and back."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.program.elf import (
    ET_CORE,
    NT_PRSTATUS,
    PT_LOAD,
    PT_NOTE,
    SHT_NOTE,
    Elf,
    Header,
    Note,
    Segment,
)

KINDS = [Elf(True, "<"), Elf(True, ">"), Elf(False, "<"), Elf(False, ">")]
READELF = shutil.which("readelf")

# Elf64_Ehdr, Elf64_Phdr and Elf64_Shdr of elf.h, little-endian: every field has a value of its own.
EHDR_64 = bytes.fromhex(
    "7f454c46 02 01 01 00 0000000000000000"  # e_ident
    "0400 3e00 01000000"  # e_type, e_machine, e_version
    "1111111100000000 4000000000000000 2222222200000000"  # e_entry, e_phoff, e_shoff
    "33330000 4000 3800 0500 4000 0600 0700"  # e_flags and the six sizes and counts
)
PHDR_64 = bytes.fromhex(
    "01000000 07000000 0010000000000000 00000081ffffffff 0000200000000000"
    "0030000000000000 0040000000000000 0000200000000000"
)
SHDR_64 = bytes.fromhex(
    "01000000 07000000 0200000000000000 0010000000000000 8002000000000000 2400000000000000 03000000 09000000"
    "0400000000000000 0000000000000000"
)
# Elf32_Ehdr, Elf32_Phdr and Elf32_Shdr, big-endian.
EHDR_32 = bytes.fromhex(
    "7f454c46 01 02 01 00 0000000000000000"
    "0004 0008 00000001"
    "11111111 00000034 22222222"
    "00003333 0034 0020 0005 0028 0006 0007"
)
PHDR_32 = bytes.fromhex("00000001 00001000 c1000000 01000000 00003000 00004000 00000007 00200000")
SHDR_32 = bytes.fromhex("00000001 00000007 00000002 00001000 00000280 00000024 00000003 00000009 00000004 00000000")


def test_64_bit_little_endian_structures() -> None:
    elf = Elf.of(EHDR_64)
    assert elf == Elf(True, "<")
    assert (elf.header_size, elf.segment_size, elf.section_size) == (64, 56, 64)
    assert (elf.word, elf.max_address) == ("<Q", 0xFFFFFFFFFFFFFFFF)
    header = Header(
        *(4, 62, 1, 0x11111111, 0x40, 0x22222222, 0x3333),
        *(64, 56, 5, 64, 6, 7),
    )
    assert elf.header(EHDR_64) == header
    assert elf.pack_header(header) == EHDR_64
    segment = Segment(0x1000, 0xFFFFFFFF81000000, 0x200000, 0x3000, 0x4000, PT_LOAD, 7, 0x200000)
    assert list(elf.segments(PHDR_64)) == [segment]
    assert elf.pack_segment(segment) == PHDR_64
    (section,) = elf.sections(SHDR_64)
    assert (section.type, section.offset, section.size, section.info) == (SHT_NOTE, 0x280, 0x24, 9)


def test_32_bit_big_endian_structures() -> None:
    elf = Elf.of(EHDR_32)
    assert elf == Elf(False, ">")
    assert (elf.header_size, elf.segment_size, elf.section_size) == (52, 32, 40)
    assert (elf.word, elf.max_address) == (">I", 0xFFFFFFFF)
    header = Header(
        *(4, 8, 1, 0x11111111, 0x34, 0x22222222, 0x3333),
        *(52, 32, 5, 40, 6, 7),
    )
    assert elf.header(EHDR_32) == header
    assert elf.pack_header(header) == EHDR_32
    segment = Segment(0x1000, 0xC1000000, 0x1000000, 0x3000, 0x4000, PT_LOAD, 7, 0x200000)
    assert list(elf.segments(PHDR_32)) == [segment]
    assert elf.pack_segment(segment) == PHDR_32
    (section,) = elf.sections(SHDR_32)
    assert (section.type, section.offset, section.size, section.info) == (SHT_NOTE, 0x280, 0x24, 9)


def test_notes() -> None:
    # Two notes; name and description are padded to four bytes, the size fields don't count that.
    data = b"\5\0\0\0\3\0\0\0\1\0\0\0CORE\0\0\0\0abc\0" + b"\4\0\0\0\0\0\0\0\3\0\0\0GNU\0"
    notes = [Note("CORE", NT_PRSTATUS, b"abc"), Note("GNU", 3, b"")]
    for order, bytes_ in (("<", data), (">", b"".join(data[i : i + 4][::-1] for i in range(0, 12, 4)) + data[12:24])):
        for is_64_bit in (False, True):
            elf = Elf(is_64_bit, order)
            count = 2 if order == "<" else 1
            assert list(elf.notes(bytes_)) == notes[:count]
            assert b"".join(map(elf.pack_note, notes[:count])) == bytes_


@pytest.mark.parametrize("size", range(24 + 16))
def test_notes_end_with_the_last_whole_one(size: int) -> None:
    elf = KINDS[0]
    data = elf.pack_note(Note("CORE", 1, b"abcd")) + elf.pack_note(Note("GNU", 3, b""))
    assert len(data) == 24 + 16
    assert [note.name for note in elf.notes(data[:size])] == ["CORE"] * (size >= 24)


@pytest.mark.parametrize("change", [(0, 0), (4, 0), (4, 3), (5, 0), (5, 3)])
def test_damaged_ident_has_no_codec(change: tuple[int, int]) -> None:
    ident = bytearray(EHDR_64[:16])
    ident[change[0]] = change[1]
    assert Elf.of(bytes(ident)) is None
    assert Elf.of(EHDR_64[:15]) is None


words = st.integers(0, 0xFFFFFFFF)
halves = st.integers(0, 0xFFFF)


@given(st.sampled_from(KINDS), st.data())
def test_what_is_written_is_read_again(elf: Elf, data: st.DataObject) -> None:
    address = st.integers(0, elf.max_address)
    header = Header(
        *(data.draw(halves), data.draw(halves), data.draw(words)),
        *(data.draw(address), data.draw(address), data.draw(address), data.draw(words)),
        *(elf.header_size, elf.segment_size, data.draw(halves)),
        *(data.draw(halves), data.draw(halves), data.draw(halves)),
    )
    assert elf.header(elf.pack_header(header)) == header
    assert Elf.of(elf.pack_header(header)) == elf
    segments = [
        data.draw(st.builds(Segment, *[address] * 5, words, words, address, st.just(0)))
        for _ in range(data.draw(st.integers(0, 3)))
    ]
    assert list(elf.segments(b"".join(map(elf.pack_segment, segments)))) == segments
    name = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
    notes = data.draw(st.lists(st.builds(Note, name, words, st.binary(max_size=9)), max_size=3))
    assert list(elf.notes(b"".join(map(elf.pack_note, notes)))) == notes


def readelf(*arguments: object) -> str:
    """Get what readelf says of a file."""
    if READELF is None:
        pytest.skip("readelf is not installed")
    command = [READELF, "-W", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout


@pytest.mark.parametrize("elf", KINDS, ids=lambda elf: ("64" if elf.is_64_bit else "32") + elf.order)
def test_readelf_reads_what_is_written(elf: Elf, tmp_path: Path) -> None:
    notes = elf.pack_note(Note("CORE", NT_PRSTATUS, bytes(20))) + elf.pack_note(Note("VMCOREINFO", 0, b"A=B\n"))
    start = elf.header_size + 2 * elf.segment_size
    segments = [
        Segment(start, 0, 0, len(notes), len(notes), PT_NOTE),
        Segment(start + len(notes), 0xC1000000, 0x1000000, 4, 0x2000, flags=6),
    ]
    machine = 62 if elf.is_64_bit else 3
    path = tmp_path / "core"
    path.write_bytes(
        elf.pack_header(Header(ET_CORE, machine, phoff=elf.header_size, phnum=2))
        + b"".join(map(elf.pack_segment, segments))
        + notes
        + b"data"
    )
    lines = readelf("-h", path)
    for name, value in (
        ("Class", "ELF64" if elf.is_64_bit else "ELF32"),
        ("Data", f"2's complement, {'little' if elf.order == '<' else 'big'} endian"),
        ("Type", r"CORE \(Core file\)"),
        ("Machine", "Advanced Micro Devices X86-64" if elf.is_64_bit else "Intel 80386"),
        ("Start of program headers", f"{elf.header_size} .*"),
        ("Number of program headers", "2"),
        ("Size of program headers", f"{elf.segment_size} .*"),
    ):
        assert re.search(rf"^ *{name}: +{value}$", lines, re.MULTILINE), (name, lines)
    found = re.findall(r"^ +(NOTE|LOAD) +(0x\w+) (0x\w+) (0x\w+) (0x\w+) (0x\w+)", readelf("-l", path), re.MULTILINE)
    assert [(kind, *(int(word, 16) for word in rest)) for kind, *rest in found] == [
        ("NOTE" if s.type == PT_NOTE else "LOAD", s.offset, s.vaddr, s.paddr, s.filesz, s.memsz) for s in segments
    ]
    found = re.findall(r"^ +(CORE|VMCOREINFO)\s+(0x\w+)", readelf("-n", path), re.MULTILINE)
    assert [(name, int(size, 16)) for name, size in found] == [("CORE", 20), ("VMCOREINFO", 4)]


def test_headers_of_a_program_are_those_that_readelf_shows() -> None:
    path = Path(sys.executable).resolve()
    data = path.read_bytes()
    elf = Elf.of(data)
    assert elf is not None
    header = elf.header(data)
    assert header == header._replace(ehsize=elf.header_size, phentsize=elf.segment_size, shentsize=elf.section_size)
    table = data[header.phoff : header.phoff + header.phnum * elf.segment_size]
    found = re.findall(r"^ +[A-Z]\w+ +(0x\w+) (0x\w+) (0x\w+) (0x\w+) (0x\w+)", readelf("-l", path), re.MULTILINE)
    assert [tuple(int(word, 16) for word in row) for row in found] == [
        (s.offset, s.vaddr, s.paddr, s.filesz, s.memsz) for s in elf.segments(table)
    ]
    table = data[header.shoff : header.shoff + header.shnum * elf.section_size]
    sections = [(s.offset, s.size) for s in elf.sections(table)][1:]
    found = re.findall(r"\] \S+ +[A-Z]\w+ +\w+ (\w+) (\w+) ", readelf("-S", path))
    assert [tuple(int(word, 16) for word in row) for row in found] == sections
