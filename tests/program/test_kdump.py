# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of kdump-compressed dumps: what libkdumpfile reads, and what it is left to read."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mminspect.errors import TargetError
from mminspect.program import corefile, kdump, kdump_header
from mminspect.program import open as target
from mminspect.program.pagetable import LARGE_PAGE
from tests.kit.dumps import BLOCK, LZO, RAW, ZLIB, ZSTD, flatten
from tests.kit.dumps import make_kdump as make
from tests.kit.support import VIRTUAL, FakeTables

PLATFORM = Platform(Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN)


def libkdumpfile(fd: int) -> Program:
    prog = Program(PLATFORM)
    prog.set_core_dump(os.dup(fd))
    return prog


def no_fallback(fd: int) -> Program:
    raise AssertionError("libkdumpfile was asked")


@contextlib.contextmanager
def opened(data: bytes, fallback: kdump.Fallback = no_fallback) -> Iterator[tuple[kdump.DumpPages, int]]:
    """Open a dump, and give its file too."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        core = corefile.parse(file.fileno(), "dump")
        assert kdump.can_read(core) and core.kdump is not None
        yield kdump.DumpPages(file.fileno(), core, fallback), file.fileno()


def outcome(read: Callable[[], bytes]) -> Any:
    try:
        return read()
    except FaultError:
        return FaultError


CONTENT = st.one_of(
    st.just(bytes(BLOCK)),
    st.builds(
        lambda seed, size: (seed * size)[:BLOCK].ljust(BLOCK, b"\1"),
        st.binary(min_size=1, max_size=40),
        st.integers(1, 200),
    ),
    st.builds(lambda n: bytes((i * i * n >> 3) % 251 for i in range(BLOCK)), st.integers(1, 250)),
)
PAGES = st.dictionaries(
    st.one_of(st.integers(0, 40), st.integers(kdump.BLOCK_PFNS - 5, kdump.BLOCK_PFNS + 5)),
    st.tuples(CONTENT, st.sampled_from((RAW, ZLIB, ZSTD))),
    min_size=1,
    max_size=40,
)
END = 2 * kdump.BLOCK_PFNS


@settings(max_examples=100, deadline=None)
@given(PAGES, st.lists(st.integers(0, 1 << 24), max_size=12), st.booleans(), st.data())
def test_reads_what_was_dumped(pages: dict[int, tuple[bytes, int]], cuts: list[int], flat: bool, data: Any) -> None:
    dump = make(pages, END).data
    with opened(flatten(dump, cuts) if flat else dump) as (reader, _):
        for _ in range(5):
            first = data.draw(st.sampled_from(sorted(pages)))
            address = first * BLOCK + data.draw(st.integers(0, BLOCK - 1))
            size = data.draw(st.one_of(st.integers(1, 64), st.integers(1, 30 * BLOCK)))
            wanted = range(address // BLOCK, -(-(address + size) // BLOCK))
            if all(pfn in pages for pfn in wanted):
                whole = b"".join(pages[pfn][0] for pfn in wanted)
                inside = address - wanted[0] * BLOCK
                assert reader.read(address, size, 0, True) == whole[inside : inside + size]
            else:
                with pytest.raises(FaultError, match="excluded") as caught:
                    reader.read(address, size, 0, True)
                assert caught.value.address // BLOCK == min(pfn for pfn in wanted if pfn not in pages)


FEW = LARGE_PAGE // BLOCK


@contextlib.contextmanager
def packed_memory(
    leaves: list[int], pages: dict[int, tuple[bytes, int]], leaf: int = LARGE_PAGE
) -> Iterator[tuple[kdump.PackedMemory, Program]]:
    """Get the memory of a dump, and a program that reads it through the same page tables."""
    with opened(make(pages, END).data) as (reader, fd):
        prog = Program(PLATFORM)
        prog.add_memory_segment(0, reader.end, reader.read, physical=True)
        tables = FakeTables(prog, leaves, leaf)
        prog.add_memory_segment(VIRTUAL, 8 * LARGE_PAGE, tables.read)
        yield kdump.PackedMemory(prog, fd, reader, tables), prog


@settings(max_examples=12, deadline=None)
@given(
    st.permutations(range(4)),
    st.sampled_from((RAW, ZLIB, ZSTD)),
    st.lists(st.tuples(st.integers(0, 5 * LARGE_PAGE), st.integers(1, 4 * LARGE_PAGE)), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(0, 4 * FEW - 1)),
)
def test_memory_is_read_as_drgn_reads_it_or_not_at_all(
    order: list[int], kind: int, ranges: list[tuple[int, int]], missing: int | None
) -> None:
    pages = {pfn: (struct.pack("<H", pfn) * (BLOCK // 2), kind) for pfn in range(4 * FEW) if pfn != missing}
    with packed_memory([leaf * LARGE_PAGE for leaf in order], pages) as (memory, prog):
        for start, size in ranges:
            data = memory.read(VIRTUAL + start, size)
            truth = outcome(lambda a=VIRTUAL + start, n=size: prog.read(a, n))  # type: ignore[misc]
            if data is not None:
                assert data.tobytes() == truth
            elif truth is not FaultError:
                # Only what is too small to be worth it.
                assert size < 128
            assert memory.holds(VIRTUAL + start) == (start < 4 * LARGE_PAGE)


def test_memory_that_small_pages_map_is_left_to_drgn() -> None:
    pages = {pfn: (bytes([pfn]) * BLOCK, ZLIB) for pfn in range(1, 9)}
    with packed_memory([pfn * BLOCK for pfn in range(1, 9)], pages, BLOCK) as (memory, prog):
        assert prog.read(VIRTUAL, 2 * BLOCK) == bytes([1]) * BLOCK + bytes([2]) * BLOCK
        assert not memory.holds(VIRTUAL)
        assert memory.read(VIRTUAL, 2 * BLOCK) is None


def test_memory_that_drgn_reads_differently_is_left_to_it() -> None:
    pages = {pfn: (bytes([pfn % 251]) * BLOCK, ZLIB) for pfn in range(2 * FEW)}
    with packed_memory([0, LARGE_PAGE], pages) as (memory, prog):
        assert memory.read(VIRTUAL, 2 * LARGE_PAGE) is not None
        prog.add_memory_segment(VIRTUAL, BLOCK, lambda address, count, offset, physical: b"x" * count)
        assert memory.read(VIRTUAL, 2 * LARGE_PAGE) is None
        assert memory.read(VIRTUAL + BLOCK, LARGE_PAGE) is not None


def some_pages(kind: int = ZLIB) -> dict[int, tuple[bytes, int]]:
    return {pfn: (bytes([pfn]) * BLOCK if pfn % 3 else bytes(BLOCK), kind) for pfn in range(2, 30) if pfn != 20}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 26), st.integers(0, 19), st.binary(min_size=1, max_size=4), st.booleans())
# libkdumpfile would read 2 GiB, behind the end of the file.
@example(5, 8, b"\0\0\0\x80", False)
# It takes the next pages for part of this one.
@example(5, 9, b"\x11", False)
@example(5, 0, b"\xff\xff\xff\xff", True)
@example(5, 4, b"\0\0\0\x40", False)
def test_damaged_descriptors_read_as_with_libkdumpfile_or_not_at_all(
    index: int, at: int, noise: bytes, flat: bool
) -> None:
    dump = make(some_pages(), 64)
    data = bytearray(dump.data)
    where = dump.descriptors + 24 * index
    data[where + at : where + at + len(noise)] = noise
    offset, size = struct.unpack_from("<qI", data, where)
    # libkdumpfile takes what is beyond the file's end for an error of the disk, and is ended by a signal.
    inside = 0 <= offset < offset + size <= len(data)
    file = flatten(bytes(data), [5000, 70000]) if flat else bytes(data)
    pages = some_pages()
    pfn = sorted(pages)[index]
    with contextlib.ExitStack() as stack:
        reader, fd = stack.enter_context(opened(file, libkdumpfile))
        truth = libkdumpfile(fd)
        for first, count in ((2, 18), (21, 9), (pfn, 1)):
            ours = outcome(lambda a=first, n=count: reader.read(a * BLOCK, n * BLOCK, 0, True))  # type: ignore[misc]
            if inside or not first <= pfn < first + count:
                expected = outcome(
                    lambda a=first, n=count: truth.read(a * BLOCK, n * BLOCK, physical=True)  # type: ignore[misc]
                )
                assert ours == expected
            else:
                whole = b"".join(pages[n][0] for n in range(first, first + count))
                assert ours in (FaultError, whole)


def test_pages_that_cannot_be_decompressed_are_damaged() -> None:
    for kind, noise in ((ZLIB, b"x" * 8), (ZSTD, b"\0" * 8)):
        dump = make(some_pages(kind), 64)
        data = bytearray(dump.data)
        (offset,) = struct.unpack_from("<q", data, dump.descriptors + 24 * 5)
        data[offset : offset + 8] = noise
        with opened(bytes(data)) as (reader, _):
            assert reader.read(2 * BLOCK, 5 * BLOCK, 0, True)
            with pytest.raises(FaultError, match="damaged in the dump"):
                reader.read(2 * BLOCK, 9 * BLOCK, 0, True)


@pytest.mark.parametrize("cut", [1, 100, 3 * BLOCK])
@pytest.mark.parametrize("zeros", [0, 70000])
def test_dump_that_is_cut_is_truncated_and_one_whose_descriptors_are_damaged_is_not(
    cut: int, zeros: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the pages of zeros share is far from what the last pages have, as in a large dump.
    monkeypatch.setattr(kdump_header, "MAX_GAP", 2 * BLOCK)
    numbers = [*range(1, 60), *range(100 + zeros, 120 + zeros)]
    pages = {pfn: (bytes((pfn * n) % 251 for n in range(BLOCK)), RAW) for pfn in numbers}
    pages.update((pfn, (bytes(BLOCK), RAW)) for pfn in (0, *range(100, 100 + zeros)))
    dump = make(pages, 120 + zeros)
    with opened(dump.data[:-cut]) as (reader, fd):
        incomplete = corefile.parse(fd, "dump").incomplete
        assert incomplete is not None and "truncated" in incomplete.why
        assert reader.read(2 * BLOCK, BLOCK, 0, True) == pages[2][0]
        with pytest.raises(FaultError, match="missing from a dump that is not whole"):
            reader.read((119 + zeros) * BLOCK, 8, 0, True)
    data = bytearray(dump.data)
    for index, (offset, size) in enumerate(((1 << 62, 50), (len(data), 1 << 30), (-1, 50), (2 << 20, BLOCK))):
        struct.pack_into("<qI", data, dump.descriptors + 24 * (40 + 5 * index), offset, size)
    for index, size in ((30, BLOCK + 1), (31, 1 << 31)):
        struct.pack_into("<I", data, dump.descriptors + 24 * index + 8, size)
    with opened(bytes(data)) as (reader, fd):
        assert corefile.parse(fd, "dump").incomplete is None
        assert reader.read(2 * BLOCK, BLOCK, 0, True) == pages[2][0]
        for pfn in (30, 31, 40, 45, 50):
            # One that is not compressed has no checksum.
            with pytest.raises(FaultError, match="damaged in the dump"):
                reader.read(pfn * BLOCK, 8, 0, True)


@pytest.mark.parametrize("kind", [LZO, 0x40])
def test_other_compressions_are_left_to_libkdumpfile(kind: int) -> None:
    dump = make(some_pages(), 64)
    data = bytearray(dump.data)
    struct.pack_into("<I", data, dump.descriptors + 12, kind)
    asked = []

    def fallback(fd: int) -> Any:
        asked.append(fd)
        return Answer()

    class Answer:
        def read(self, address: int, count: int, physical: bool) -> bytes:
            return b"x" * count

    with opened(bytes(data), fallback) as (reader, _):
        assert reader.read(2 * BLOCK, 5 * BLOCK, 0, True) == b"x" * 5 * BLOCK
        assert reader.read(2 * BLOCK, 3, 0, True) == b"xxx"
        assert reader.read(4 * BLOCK, 2 * BLOCK, 0, True) == bytes([4]) * BLOCK + bytes([5]) * BLOCK
    assert len(asked) == 1


@pytest.mark.parametrize("status", [LZO, kdump.COMPRESSED_SNAPPY])
def test_compressions_that_are_not_read_here(status: int) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(make(some_pages(), 64, status).data)
        file.flush()
        assert not kdump.is_read_here(corefile.parse(file.fileno(), "dump"))


def test_piece_of_a_split_dump_has_the_descriptors_of_its_own_pages() -> None:
    pages = some_pages()
    with opened(make(pages, 64, split=1, piece=(9, 23)).data) as (reader, _):
        assert reader.read(9 * BLOCK, 11 * BLOCK, 0, True) == b"".join(pages[pfn][0] for pfn in range(9, 20))
        assert reader.read(22 * BLOCK, BLOCK, 0, True) == pages[22][0]
        for pfn, why in ((8, "missing"), (23, "missing"), (20, "excluded"), (40, "excluded")):
            with pytest.raises(FaultError, match=why):
                reader.read(pfn * BLOCK, 8, 0, True)


@pytest.mark.parametrize("piece", [(9, 3), (0, 1 << 20), (1 << 62, (1 << 62) + 1)])
def test_piece_that_can_not_be(piece: tuple[int, int]) -> None:
    with pytest.raises(TargetError, match="make no sense"), opened(make(some_pages(), 64, split=1, piece=piece).data):
        pass


def test_records_that_overlap_are_not_read_here() -> None:
    with tempfile.TemporaryFile() as file:
        flat = flatten(make(some_pages(), 64).data, [])
        again = struct.pack(">qq", 100, 4) + b"more"
        file.write(flat[:BLOCK] + again + flat[BLOCK:])
        file.flush()
        core = corefile.parse(file.fileno(), "dump")
        assert core.records is not None and core.records.overlap
        assert not kdump.can_read(core)
        assert kdump.can_read(replace(core, records=None))


def test_opened_dump_reads_pages_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump"
    path.write_bytes(make(some_pages(), 64).data)
    monkeypatch.setattr(kdump.DumpPages, "read", lambda self, address, count, offset, physical: b"x" * count)
    prog = target.open_vmcore(str(path)).prog
    assert prog.read(BLOCK, 3, physical=True) == b"xxx"
    with pytest.raises(FaultError):
        prog.read(1 << 40, 3, physical=True)
