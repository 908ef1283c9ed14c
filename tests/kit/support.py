# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests share: the fixtures, ways to run mminspect, and an editor for ELF cores."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drgn import FaultError, Program

from mminspect.cli.run import run
from mminspect.findings import Finding, Report
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import Kernel, open_kernel
from mminspect.program.elf import ET_CORE, PT_LOAD, PT_NOTE, Elf, Header, Note, Segment
from mminspect.program.pagetable import LARGE_PAGE, PageTables
from mminspect.signals import SIGNALS
from mminspect.walk.scan import scan

ROOT = Path(__file__).resolve().parents[2]
VMCORES = ROOT / "fixtures" / "vmcores"
DATA = ROOT / "tests" / "data"

I386_HOLE = "i386-5.10-hole"
AMD64_400M = "amd64-6.12-400m"
AMD64_NUMA = "amd64-7.2-numa"
AMD64_HEALTHY = "amd64-6.1-healthy"
AMD64_HOTPLUG = "amd64-5.10-hotplug"
AMD64_LOW_RAM = "amd64-6.12-low-ram"
AMD64_DEVDAX = "amd64-6.18-devdax-early"
AMD64_LRU = "amd64-6.1-lru"
ARM64 = "arm64-6.12"
S390X = "s390x-6.12"
NAMES = (I386_HOLE, AMD64_400M, AMD64_NUMA, AMD64_HEALTHY, AMD64_HOTPLUG, AMD64_LOW_RAM, ARM64, S390X)

# Where FakeTables map memory.
VIRTUAL = 0xFFFF_EA00_0000_0000


class FakeTables(PageTables):
    """
    Page tables that map memory at VIRTUAL.

    :param prog: Reads physical memory.
    :param leaves: Physical address of each leaf.
    :param leaf: Bytes that each maps.
    """

    def __init__(self, prog: Program, leaves: Sequence[int], leaf: int = LARGE_PAGE) -> None:
        super().__init__(prog, 0, 4, lambda value, shift: None)
        self._leaves = leaves
        self._leaf = leaf

    def translate(self, address: int) -> tuple[int, int]:
        page, inside = divmod(address - VIRTUAL, self._leaf)
        if not 0 <= page < len(self._leaves):
            raise FaultError("address is not mapped", address)
        return self._leaves[page] + inside, self._leaf - inside


@dataclass(frozen=True)
class Done:
    """What a command line did."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Decode what it printed."""
        return json.loads(self.out)


def python(*arguments: str, **options: Any) -> Done:
    """Run ``python -m mminspect`` in a process of its own."""
    options.setdefault("timeout", 60)
    command = [sys.executable, "-m", "mminspect", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(arguments: Sequence[str]) -> int:
    """Run the command line in this process, which keeps its rights, and return its exit status."""
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    try:
        run(("--sandbox", "off", *arguments))
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def open_core(path: os.PathLike[str]) -> Kernel:
    """Open a vmcore."""
    with open_kernel(Inputs(str(path))) as kernel:
        return kernel


def scan_file(path: os.PathLike[str]) -> Report:
    """Scan a vmcore."""
    return scan(open_core(path))


def without_times(report: Any) -> Any:
    """Copy a JSON report without what differs from run to run and from file to file."""
    report = json.loads(json.dumps(report))
    del report["target"]["path"], report["summary"]["elapsed_seconds"]
    return report


def summary(findings: Sequence[Finding]) -> list[tuple[str, str, int, int]]:
    """Reduce findings to (rule, severity, start, end)."""
    return [(f.rule, f.severity, f.start_pfn, f.end_pfn) for f in findings]


def without_consequences(finding: Finding) -> Finding:
    """Copy a finding with just what its rule gave it."""
    added = ("consequences", "severity_by_rule", "cause")
    detail = {name: value for name, value in finding.detail.items() if name not in added}
    return replace(finding, detail=detail, id="", signature="", known=None)


class CoreEditor:
    """
    Changes the memory of an ELF core in place.

    :param path: An ELF core with virtual addresses, as captures are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            start = file.read(64)
            elf = Elf.of(start)
            assert elf is not None
            self.elf = elf
            self.header = self.elf.header(start)
            file.seek(self.header.phoff)
            self.segments = list(self.elf.segments(file.read(self.elf.segment_size * self.header.phnum)))
        self.loads = [s for s in self.segments if s.type == PT_LOAD]

    @property
    def order(self) -> str:
        """The byte order: ``<`` or ``>``."""
        return self.elf.order

    def load_at(self, address: int, size: int = 1) -> Segment:
        """Find the segment that holds an address range."""
        for load in self.loads:
            if load.vaddr <= address and address + size <= load.vaddr + load.filesz:
                return load
        raise AssertionError(f"{self.path.name} holds no {size} bytes at {address:#x}")

    def read(self, address: int, size: int) -> bytes:
        """Read memory."""
        load = self.load_at(address, size)
        with self.path.open("rb") as file:
            file.seek(load.offset + address - load.vaddr)
            return file.read(size)

    def write(self, address: int, data: bytes) -> None:
        """Write memory."""
        load = self.load_at(address, len(data))
        with self.path.open("r+b") as file:
            file.seek(load.offset + address - load.vaddr)
            file.write(data)

    def word(self, value: int) -> bytes:
        """Encode an ``unsigned long``."""
        return struct.pack(self.elf.word, value)

    def write_word(self, address: int, value: int) -> None:
        """Write an ``unsigned long``."""
        self.write(address, self.word(value))

    def replace_in_notes(self, old: bytes, new: bytes) -> None:
        """Replace text in the notes by text of the same length."""
        assert len(old) == len(new)
        segment = next(s for s in self.segments if s.type == PT_NOTE)
        with self.path.open("r+b") as file:
            file.seek(segment.offset)
            notes = file.read(segment.filesz)
            assert notes.count(old) >= 1, old
            file.seek(segment.offset)
            file.write(notes.replace(old, new))

    def exclude(self, start: int, end: int) -> None:
        """
        Take memory out of the core as makedumpfile does: ``p_filesz`` becomes smaller than ``p_memsz``.

        The file is rewritten with one program header more where something follows what is taken out.
        """
        old = self.load_at(start, end - start)
        parts = [old._replace(filesz=start - old.vaddr, memsz=end - old.vaddr)]
        rest = old.vaddr + old.filesz - end
        if rest:
            parts.append(old._replace(offset=old.offset + end - old.vaddr, vaddr=end, filesz=rest, memsz=rest))
        at = self.segments.index(old)
        self.rewrite([*self.segments[:at], *parts, *self.segments[at + 1 :]])

    def rewrite(self, segments: Sequence[Segment], more: bytes = b"") -> None:
        """
        Write the file anew with other program headers.

        :param segments: With offsets as in the old file; what follows the headers moves if there are more of them.
        :param more: Appended to the file.
        """
        start = self.header.phoff + self.elf.segment_size * len(self.segments)
        shift = self.elf.segment_size * (len(segments) - len(self.segments))
        moved = [self.elf.pack_segment(s._replace(offset=s.offset + shift)) for s in segments]
        header = self.elf.pack_header(self.header._replace(phnum=len(segments)))
        self.path.write_bytes(header + b"".join(moved) + self.path.read_bytes()[start:] + more)


def elf_core(notes: Sequence[tuple[str, bytes]], loads: Sequence[tuple[int, bytes]], machine: int = 62) -> bytes:
    """Make a little-endian ELF64 core of (name, description) notes and (address, bytes) segments."""
    elf = Elf(True, "<")
    body = b"".join(elf.pack_note(Note(name, 1, data)) for name, data in notes)
    offset = elf.header_size + elf.segment_size * (1 + len(loads))
    segments = [Segment(offset, 0, 0, len(body), len(body), PT_NOTE)]
    for address, data in loads:
        segments.append(Segment(offset + len(body), address, 0, len(data), len(data)))
        body += data
    header = elf.pack_header(Header(ET_CORE, machine, phoff=elf.header_size, phnum=len(segments)))
    return header + b"".join(map(elf.pack_segment, segments)) + body


@contextlib.contextmanager
def environment(**values: str) -> Iterator[dict[str, str]]:
    """Give a copy of the environment with some values changed."""
    changed = dict(os.environ)
    changed.update(values)
    yield changed
