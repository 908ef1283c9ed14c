# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small file that asks for much is refused, or read within bounds."""

from __future__ import annotations

import os
import struct
import tempfile
import time
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program
from hypothesis import given
from hypothesis import strategies as st

from mminspect.errors import CutShortError, DamagedError, MminspectError, TargetError
from mminspect.program import corefile, flattened
from mminspect.program.elf import PN_XNUM, PT_NOTE, Elf, Header, Note, Segment
from mminspect.program.segments import Segments
from mminspect.program.target import _or_cut_short
from mminspect.program.vmcoreinfo import MAX_SIZE, Vmcoreinfo
from tests.conftest import Cli, Edited, complaint
from tests.kit.support import AMD64_HEALTHY, elf_core, scan_file
from tests.program.test_kdump import BLOCK, RAW, ZLIB, flatten, make, opened

ELF = Elf(True, "<")
INFO = ("VMCOREINFO", b"OSRELEASE=6.1.0\n")


def parse(data: bytes) -> corefile.CoreFile:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return corefile.parse(file.fileno(), "core")


def many_headers(segments: Sequence[Segment], data: bytes) -> bytes:
    """Write an ELF core whose number of program headers can be any."""
    count = len(segments)
    at = ELF.header_size + ELF.section_size
    shift = at + count * ELF.segment_size
    header = Header(4, 62, phoff=at, shoff=ELF.header_size, phnum=min(count, PN_XNUM), shentsize=ELF.section_size)
    section = struct.pack("<IIQQQQIIQQ", *[0] * 7, count, 0, 0)
    table = b"".join(ELF.pack_segment(s._replace(offset=s.offset + shift)) for s in segments)
    return ELF.pack_header(header) + section + table + data


def test_a_hundred_thousand_program_headers_are_columns() -> None:
    note = ELF.pack_note(Note("VMCOREINFO", 0, INFO[1]))
    loads = [Segment(0, i << 13, i << 12, 8, 4096) for i in range(88761)]
    core = parse(many_headers([Segment(0, 0, 0, len(note), 0, PT_NOTE), *loads], note))
    assert isinstance(core.segments, Segments)
    assert len(core.segments) == 88761
    assert core.segments[88760].vaddr == 88760 << 13
    assert (core.segments[1].filesz, core.segments[-1].memsz) == (8, 4096)


def test_more_program_headers_than_any_dump_has() -> None:
    with pytest.raises(TargetError, match="program header table"):
        parse(many_headers([Segment(0, 0, 0, 0, 0)] * (corefile.MAX_PROGRAM_HEADERS + 1), b"x"))


@pytest.mark.parametrize("where", [1 << 63, (1 << 64) - 1, 1 << 40])
def test_headers_at_an_offset_that_no_file_has(where: int) -> None:
    head = Header(4, 62, phoff=where, phnum=2, shentsize=ELF.section_size)
    with pytest.raises(TargetError, match="truncated"):
        parse(ELF.pack_header(head) + bytes(100))
    with pytest.raises(TargetError, match="truncated"):
        parse(ELF.pack_header(head._replace(shoff=where, phnum=PN_XNUM)) + bytes(100))


def test_notes_are_bounded_together() -> None:
    body = bytes(corefile.MAX_NOTES_SIZE // 4)
    with pytest.raises(TargetError, match="5 program headers have 20971520 bytes of notes"):
        parse(many_headers([Segment(0, 0, 0, len(body), 0, PT_NOTE)] * 5, body))
    with pytest.raises(TargetError, match="more than 65536 notes"):
        parse(elf_core([("X", b"")] * 65537, [(0, b"x")]))
    with pytest.raises(TargetError, match="program headers have"):
        parse(many_headers([Segment(0, 0, 0, 0, 0, PT_NOTE)] * 20000, b""))


def test_registers_of_8192_cpus_are_no_reason_to_refuse() -> None:
    core = parse(elf_core([INFO, *[("CORE", bytes(336))] * 8192, ("CORE", bytes(1 << 15))], [(0, b"x")]))
    assert len(core.prstatus) == 8192


def test_vmcoreinfo_larger_than_a_page() -> None:
    with pytest.raises(TargetError, match="VMCOREINFO is larger than a page"):
        parse(elf_core([("VMCOREINFO", b"A=1\n" * (MAX_SIZE // 4 + 1))], [(0, b"x")]))


def test_flattened_dump_of_tiny_records() -> None:
    head = b"makedumpfile\0\0\0\0".ljust(flattened.HEADER_SIZE, b"\0")
    record = struct.pack(">qq", 1 << 21, 1) + b"x"
    with pytest.raises(TargetError, match=r"more than \d+ records"):
        parse(head + record * 70000 + struct.pack(">qq", -1, -1))


def test_flattened_dump_that_writes_its_headers_again_and_again() -> None:
    head = b"makedumpfile\0\0\0\0".ljust(flattened.HEADER_SIZE, b"\0")
    record = struct.pack(">qq", 0, 100) + bytes(100)
    with pytest.raises(TargetError, match="not a vmcore"):
        parse(head + record * 60000 + struct.pack(">qq", -1, -1))


def test_bitmap_that_is_a_hole_takes_no_time() -> None:
    dump = make({2: (bytes([2]) * BLOCK, RAW)}, 64)
    header = bytearray(dump.data[: 2 * BLOCK])
    blocks = 2 * (1 << 31) // BLOCK
    struct.pack_into("<i", header, 436, blocks)
    with tempfile.TemporaryFile() as file:
        file.write(header)
        file.truncate((2 + blocks) * BLOCK + 4096)
        start = time.process_time()
        core = corefile.parse(file.fileno(), "dump")
        assert time.process_time() - start < 1
        assert core.kdump is not None and core.kdump.bitmap_size == 1 << 31


def test_page_that_unpacks_to_more_than_a_page_is_damaged() -> None:
    dump = make({pfn: (bytes([pfn]) * BLOCK, ZLIB) for pfn in range(2, 20)}, 64)
    data = bytearray(dump.data)
    packed = zlib.compress(bytes(2 << 20))
    assert len(packed) < BLOCK
    at = len(data)
    data += packed
    struct.pack_into("<QI", data, dump.descriptors + 24, at, len(packed))
    with opened(bytes(data)) as (pages, _):
        assert pages.read(2 * BLOCK, 4, 0, True) == bytes([2]) * 4
        with pytest.raises(FaultError, match="damaged in the dump"):
            pages.read(2 * BLOCK, 8 * BLOCK, 0, True)


@pytest.mark.parametrize("text", ["1" + "0" * 20, "-" + "9" * 20, "0x" + "f" * 17, "9" * 100_000, "x", ""])
def test_numbers_that_no_variable_of_the_kernel_can_have(text: str) -> None:
    info = Vmcoreinfo(f"NUMBER(a)={text}\nSYMBOL(b)={text}\nKERNELOFFSET={text}\nSYMBOL(c)=-5\n")
    assert info.number("NUMBER(a)") is None
    assert "c" not in info.symbols
    assert info.symbols.get("b", 0) < 1 << 64
    assert -(1 << 63) <= info.kaslr_offset < 1 << 64


def test_largest_numbers_of_64_bits() -> None:
    info = Vmcoreinfo("NUMBER(a)=18446744073709551615\nNUMBER(b)=-9223372036854775808\nSYMBOL(c)=ffffffffffffffff\n")
    assert (info.number("NUMBER(a)"), info.number("NUMBER(b)")) == ((1 << 64) - 1, -(1 << 63))
    assert info.symbols["c"] == (1 << 64) - 1


@pytest.mark.parametrize(
    "fail",
    [
        lambda prog: prog.read(5, 8),
        lambda prog: prog.type("struct none"),
        lambda prog: prog["nothing"],
    ],
)
def test_errors_of_drgn_become_one_that_is_true(fail: Any) -> None:
    prog = Program(Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN))
    with pytest.raises(DamagedError, match="the dump or its types are damaged"), _or_cut_short(lambda: True):
        fail(prog)
    with pytest.raises(CutShortError), _or_cut_short(lambda: False):
        fail(prog)


@pytest.mark.parametrize(
    "error", [IndexError("x"), KeyError("x"), ValueError("x"), AttributeError("x"), TypeError("x")]
)
def test_our_own_bugs_are_told_as_such(error: Exception) -> None:
    with pytest.raises(type(error)), _or_cut_short(lambda: True):
        raise error


def test_number_that_drgn_would_derive_from_itself_is_missing(cli: Cli, edited: Edited) -> None:
    core = edited(AMD64_HEALTHY)
    core.replace_in_notes(b"NUMBER(MAX_PHYSMEM_BITS)", b"NUMBER(MAX_PHYSMEM_BITZ)")
    core.replace_in_notes(b"LENGTH(mem_section)=2048", b"LENGTH(mem_sectiom)=2048")
    core.replace_in_notes(b"NUMBER(SECTION_SIZE_BITS)", b"NUMBER(SECTION_SIZE_BITZ)")
    assert "RecursionError" not in complaint(cli("-c", core.path, "scan"))


def test_whole_dump_with_many_program_headers_gives_the_same_findings(edited: Edited) -> None:
    core = edited(AMD64_HEALTHY)
    before = [f.id if hasattr(f, "id") else f.message for f in scan_file(core.path).findings]
    last = core.segments[-1]
    more = [Segment(last.offset, (1 << 47) + i * 0x2000, (1 << 40) + i * 0x2000, 8, 4096) for i in range(70000)]
    table = b"".join(core.elf.pack_segment(s) for s in [*core.segments, *more])
    size = core.path.stat().st_size
    count = len(table) // core.elf.segment_size
    section = struct.pack("<IIQQQQIIQQ", *[0] * 7, count, 0, 0)
    header = core.header._replace(phoff=size + len(section), shoff=size, phnum=PN_XNUM, shentsize=64, shnum=1)
    data = core.path.read_bytes()
    core.path.write_bytes(core.elf.pack_header(header) + data[core.elf.header_size :] + section + table)
    assert [f.id if hasattr(f, "id") else f.message for f in scan_file(core.path).findings] == before


WHOLE = {
    "elf": elf_core([INFO, ("CORE", bytes(336))], [(0x400000, bytes(4096)), (0x500000, b"x" * 64)]),
    "kdump": make({pfn: (bytes([pfn]) * BLOCK, ZLIB) for pfn in range(2, 20)}, 64).data,
    "flattened": flatten(make({pfn: (bytes([pfn]) * BLOCK, ZLIB) for pfn in range(2, 20)}, 64).data, [100, 5000, 9000]),
}


@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.integers(0, 1 << 14), st.binary(min_size=1, max_size=8)), max_size=6),
    st.one_of(st.none(), st.integers(0, 1 << 14)),
)
def test_damaged_headers_are_refused_or_read(name: str, writes: list[tuple[int, bytes]], size: int | None) -> None:
    data = bytearray(WHOLE[name])
    for offset, patch in writes:
        data[offset : offset + len(patch)] = patch[: max(0, len(data) - offset)]
    with tempfile.TemporaryFile() as file:
        file.write(data[:size])
        file.flush()
        try:
            corefile.parse(file.fileno(), "core")
        except MminspectError as e:
            assert "\n" not in str(e)
        assert os.fstat(file.fileno()).st_size == len(data[:size])


def test_segments_behind_the_end_are_told_by_their_own_numbers() -> None:
    top = (1 << 64) - 1
    segments = Segments.of([Segment(10, 0, 0, 90, 90), Segment(11, 0, 0, 90, 90), Segment(top, 0, 0, top, 1)])
    assert segments.end == 2 * top
    cut = segments.cut_at(100)
    assert [(s.filesz, s.lost) for s in cut] == [(90, 0), (89, 1), (0, top)]
    assert [s.memsz for s in cut] == [90, 90, 1]
    assert Segments.of([]).end == 0


@pytest.mark.parametrize("codec", [Elf(wide, order) for wide in (True, False) for order in "<>"])
def test_columns_are_what_the_table_says(codec: Elf) -> None:
    rows = [Segment(1, 2, 3, 4, 5, 1, 6, 7), Segment(*[(1 << 32) - n for n in range(1, 6)], 4, 5, 6)]
    table = b"".join(map(codec.pack_segment, rows))
    assert list(Segments.decode(codec, table)) == list(codec.segments(table)) == rows
    assert Segments.decode(codec, table) == Segments.of(rows)
    assert list(Segments.of(rows)[1:]) == rows[1:]
