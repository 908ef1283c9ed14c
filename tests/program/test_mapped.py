# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that is mapped is what drgn reads, and what can't be mapped is left to drgn."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mminspect.errors import CutShortError, LostError
from mminspect.kernel.kernel import Kernel
from mminspect.layout.read import read_memory_map
from mminspect.memmap import reader as memmap_
from mminspect.memmap.reader import Memmap
from mminspect.program.elf import Segment
from mminspect.program.mapped import MappedFile
from mminspect.program.pagetable import LARGE_PAGE
from mminspect.program.target import Target
from mminspect.walk.scan import scan
from tests.conftest import Opened, Unpacked
from tests.kit.support import (
    AMD64_400M,
    AMD64_HOTPLUG,
    I386_HOLE,
    NAMES,
    S390X,
    VIRTUAL,
    FakeTables,
    open_core,
    without_times,
)


def mapped_of(target: Target) -> MappedFile:
    """Get the mapped file of a target."""
    assert isinstance(target.direct, MappedFile)
    return target.direct


def segments_of(target: Target) -> tuple[Segment, ...]:
    """Get the segments of a target that are in the file."""
    assert target.core is not None
    return tuple(s for s in target.core.segments if s.filesz)


@pytest.mark.parametrize("name", [AMD64_400M, AMD64_HOTPLUG, I386_HOLE, S390X])
def test_mapped_memory_is_what_drgn_reads(name: str, opened: Opened) -> None:
    target, _ = opened(name)
    compared = 0
    for segment in segments_of(target):
        for start, size in ((0, segment.filesz), (segment.filesz // 3, segment.filesz // 2)):
            data = mapped_of(target).read(segment.vaddr + start, size)
            if data is not None:
                assert data.tobytes() == target.prog.read(segment.vaddr + start, size)
                compared += size
    assert compared > 1 << 20


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_the_same_mapped_and_copied(name: str, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    target, types = opened(name)
    monkeypatch.setattr(memmap_, "CHUNK_PAGES", 1 << 11)
    monkeypatch.setattr(MappedFile, "at_once", 64 << 14)
    mapped = scan(Kernel(target, types))
    copied = scan(Kernel(replace(target, direct=None), types))
    assert without_times(mapped.as_dict()) == without_times(copied.as_dict())


def test_the_memmap_of_a_capture_is_mapped(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    target, _ = opened(AMD64_400M)
    read = mapped_of(target).read
    results = []
    monkeypatch.setattr(target.direct, "read", lambda *place: results.append(read(*place)) or results[-1])
    memory = read_memory_map(target)
    for _ in Memmap(target.prog, memory, direct=target.direct).chunks():
        pass
    assert results and all(data is not None for data in results)


def test_dull_windows_are_one_chunk_and_others_are_cut(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    target, _ = opened(AMD64_400M)
    monkeypatch.setattr(memmap_, "CHUNK_PAGES", 1 << 11)
    monkeypatch.setattr(MappedFile, "at_once", 64 << 13)
    memory = read_memory_map(target)
    memmap = Memmap(target.prog, memory, direct=target.direct)
    chunks = list(memmap.chunks())
    sizes = {len(chunk.link) for chunk in chunks}
    assert 1 << 13 in sizes and 1 << 11 in sizes
    bounds = [(chunk.start_pfn, chunk.end_pfn) for chunk in chunks]
    whole = [(start, end) for start, end, _ in memmap.ranges()]
    assert (bounds[0][0], bounds[-1][1]) == (whole[0][0], whole[-1][1])
    assert sum(end - start for start, end in bounds) == sum(end - start for start, end in whole)


@pytest.fixture
def alone(unpacked: Unpacked, tmp_path: Path) -> Iterator[tuple[Path, Target]]:
    """Give a copy of a vmcore that may be changed."""
    path = tmp_path / "core"
    path.write_bytes(unpacked(AMD64_400M).read_bytes())
    yield path, open_core(path).target


def largest(target: Target) -> Segment:
    """Get the segment with the memmap."""
    return max(segments_of(target), key=lambda s: s.filesz)


def test_what_ends_behind_the_segment_is_left_to_drgn(opened: Opened) -> None:
    target, _ = opened(AMD64_400M)
    segment = largest(target)
    mapped = mapped_of(target)
    assert mapped.read(segment.vaddr, segment.filesz) is not None
    assert mapped.read(segment.vaddr, segment.filesz + 1) is None
    assert mapped.read(0, 4096) is None
    assert mapped.holds(segment.vaddr + segment.filesz - 1)
    assert not mapped.holds(segment.vaddr + segment.filesz)
    assert not mapped.holds(0)


def test_file_that_was_cut_short_is_left_to_drgn(alone: tuple[Path, Target]) -> None:
    path, target = alone
    segment = largest(target)
    os.truncate(path, segment.offset + segment.filesz // 2)
    assert mapped_of(target).read(segment.vaddr, segment.filesz) is None
    assert mapped_of(target).read(segment.vaddr, segment.filesz // 4) is None


def test_memory_laid_over_the_dump_is_left_to_drgn(alone: tuple[Path, Target]) -> None:
    _, target = alone
    segment = largest(target)
    target.prog.add_memory_segment(segment.vaddr, 64, lambda *_: bytes(64))
    assert mapped_of(target).read(segment.vaddr, 4096) is None


def test_place_is_where_the_file_holds_what_drgn_reads(alone: tuple[Path, Target]) -> None:
    path, target = alone
    segment = largest(target)
    place = mapped_of(target).place(segment.vaddr + 4096, 8192)
    assert place is not None
    assert path.read_bytes()[place : place + 8192] == target.prog.read(segment.vaddr + 4096, 8192)
    assert mapped_of(target).place(segment.vaddr + segment.filesz - 4096, 8192) is None
    target.prog.add_memory_segment(segment.vaddr + 4096, 64, lambda *_: bytes(64))
    assert mapped_of(target).place(segment.vaddr + 4096, 8192) is None


def test_segments_that_overlap_are_left_to_drgn(alone: tuple[Path, Target]) -> None:
    path, target = alone
    segment = largest(target)
    with open(path, "rb") as file:
        both = (segment, segment._replace(vaddr=segment.vaddr + 4096))
        assert not MappedFile(target.prog, file.fileno(), both).holds(segment.vaddr)
        physical = segment._replace(vaddr=segment.paddr)
        assert not MappedFile(target.prog, file.fileno(), [physical]).holds(segment.paddr)


def test_page_tables_lead_to_physical_segments(alone: tuple[Path, Target]) -> None:
    path, target = alone
    segment = largest(target)
    size = segment.filesz & -(1 << 22)
    # The last page is the first one again.
    leaves = [segment.vaddr + page for page in range(0, size - LARGE_PAGE, LARGE_PAGE)]
    tables = FakeTables(target.prog, [*leaves, segment.vaddr])
    # drgn reads through the same tables.
    target.prog.add_memory_segment(segment.vaddr, size, lambda a, n, o, p: read_at(path, segment, a, n), physical=True)
    target.prog.add_memory_segment(VIRTUAL, size, tables.read)
    with open(path, "rb") as file:
        physical = segment._replace(paddr=segment.vaddr, vaddr=0)
        nested = physical._replace(paddr=physical.paddr + 4096, offset=physical.offset + 4096, filesz=8192)
        mapped = MappedFile(target.prog, file.fileno(), [nested, physical], tables)
    whole = size - LARGE_PAGE
    data = mapped.read(VIRTUAL, whole)
    assert data is not None and data.tobytes() == target.prog.read(VIRTUAL, whole)
    assert mapped.read(VIRTUAL + 4096, whole - 8192) is not None
    # Not adjacent in physical memory, and not mapped.
    assert mapped.read(VIRTUAL, size) is None
    assert mapped.read(VIRTUAL + size, 4096) is None
    assert not mapped.holds(VIRTUAL + size)


CUT = """
import os, sys
from mminspect.cli import run as cli
from mminspect.cli import scan
from mminspect.kernel import kernel
from mminspect.memmap.reader import Memmap
from mminspect.program import open as targets
from mminspect.walk import report

when, size, *arguments = sys.argv[1:]
owner, name = {
    "opening": (targets, "_open_core"),
    "opened": (scan, "scan_with_progress"),
    "mapped": (Memmap, "_words"),
    "walked": (report, "summarize"),
}[when]
original = getattr(owner, name)
# The sandbox opens nothing for writing.
writable = os.open(sys.argv[4], os.O_RDWR)

def cut(*arguments):
    os.truncate(writable, int(size))
    return original(*arguments)

def arm(*arguments):
    setattr(owner, name, cut)

if when == "mapped":
    # Not what calibrate() reads.
    kernel.calibrate = arm
else:
    arm()
cli.run(tuple(arguments))
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("when", ["opening", "opened", "mapped", "walked"])
def test_file_that_is_cut_short_while_it_is_read_is_one_clear_line(
    when: str, jobs: str, unpacked: Unpacked, tmp_path: Path
) -> None:
    core = tmp_path / "core"
    shutil.copy(unpacked(AMD64_400M), core)
    # The last pages are not of the memmap, so that nothing but the size of the file tells.
    size = 4096 if when == "mapped" else core.stat().st_size - 4096
    done = subprocess.run(
        [sys.executable, "-c", CUT, when, str(size), "-c", str(core), "scan", "--jobs", jobs],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"mminspect: {CutShortError()}\n"


LOST = """
import os, signal, sys
from mminspect.cli import run as cli
from mminspect.memmap.reader import Memmap

def lose(*arguments):
    os.kill(os.getpid(), signal.SIGBUS)
    return None

Memmap._words = lose
cli.run(tuple(sys.argv[1:]))
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_bus_error_in_a_file_that_is_whole_is_not_called_cut_short(jobs: str, unpacked: Unpacked) -> None:
    """libkdumpfile maps files too, and follows a damaged descriptor behind their end."""
    done = subprocess.run(
        [sys.executable, "-c", LOST, "-c", str(unpacked(AMD64_400M)), "scan", "--jobs", jobs],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"mminspect: {LostError()}\n")


def read_at(path: Path, segment: Segment, address: int, size: int) -> bytes:
    """Read the memory of a segment out of its file."""
    with open(path, "rb") as file:
        file.seek(segment.offset + address - segment.vaddr)
        return file.read(size)
