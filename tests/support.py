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
from mminspect.program.pagetable import LARGE_PAGE, PageTables
from mminspect.signals import SIGNALS
from mminspect.walk.scan import scan

ROOT = Path(__file__).resolve().parent.parent
VMCORES = ROOT / "fixtures" / "vmcores"
DATA = ROOT / "tests" / "data"

I386_HOLE = "i386-5.10-hole"
AMD64_400M = "amd64-6.12-400m"
AMD64_NUMA = "amd64-7.2-numa"
AMD64_HEALTHY = "amd64-6.1-healthy"
AMD64_HOTPLUG = "amd64-5.10-hotplug"
AMD64_LOW_RAM = "amd64-6.12-low-ram"
ARM64 = "arm64-6.12"
S390X = "s390x-6.12"
NAMES = (I386_HOLE, AMD64_400M, AMD64_NUMA, AMD64_HEALTHY, AMD64_HOTPLUG, AMD64_LOW_RAM, ARM64, S390X)

PT_LOAD = 1
PT_NOTE = 4

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
    """Run the command line in this process and return its exit status."""
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    try:
        run(tuple(arguments))
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
    """Copy a finding with just the detail that its rule gave it."""
    detail = {name: value for name, value in finding.detail.items() if name not in ("consequences", "severity_by_rule")}
    return replace(finding, detail=detail)


@dataclass(frozen=True)
class Header:
    """A program header and where it is in the file."""

    at: int
    kind: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int


class CoreEditor:
    """
    Changes the memory of an ELF core in place.

    :param path: An ELF core with virtual addresses, as captures are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            ident = file.read(64)
            self.wide = ident[4] == 2
            self.order = "<" if ident[5] == 1 else ">"
            phoff = struct.unpack_from(self.order + ("Q" if self.wide else "I"), ident, 32 if self.wide else 28)[0]
            self.entry_size, count = struct.unpack_from(self.order + "HH", ident, 54 if self.wide else 42)
            file.seek(phoff)
            table = file.read(self.entry_size * count)
        self.headers = [self._header(table, phoff, i) for i in range(count)]
        self.loads = [h for h in self.headers if h.kind == PT_LOAD]

    def _header(self, table: bytes, phoff: int, index: int) -> Header:
        at = index * self.entry_size
        if self.wide:
            kind, _, offset, vaddr, _, filesz, memsz, _ = struct.unpack_from(self.order + "IIQQQQQQ", table, at)
        else:
            kind, offset, vaddr, _, filesz, memsz, _, _ = struct.unpack_from(self.order + "IIIIIIII", table, at)
        return Header(phoff + at, kind, offset, vaddr, filesz, memsz)

    def load_at(self, address: int, size: int = 1) -> Header:
        """Find the segment that holds an address range."""
        for header in self.loads:
            if header.vaddr <= address and address + size <= header.vaddr + header.filesz:
                return header
        raise AssertionError(f"{self.path.name} holds no {size} bytes at {address:#x}")

    def read(self, address: int, size: int) -> bytes:
        """Read memory."""
        header = self.load_at(address, size)
        with self.path.open("rb") as file:
            file.seek(header.offset + address - header.vaddr)
            return file.read(size)

    def write(self, address: int, data: bytes) -> None:
        """Write memory."""
        header = self.load_at(address, len(data))
        with self.path.open("r+b") as file:
            file.seek(header.offset + address - header.vaddr)
            file.write(data)

    def word(self, value: int) -> bytes:
        """Encode an ``unsigned long``."""
        return struct.pack(self.order + ("Q" if self.wide else "I"), value)

    def write_word(self, address: int, value: int) -> None:
        """Write an ``unsigned long``."""
        self.write(address, self.word(value))

    def replace_in_notes(self, old: bytes, new: bytes) -> None:
        """Replace text in the notes by text of the same length."""
        assert len(old) == len(new)
        header = next(h for h in self.headers if h.kind == PT_NOTE)
        with self.path.open("r+b") as file:
            file.seek(header.offset)
            notes = file.read(header.filesz)
            assert notes.count(old) >= 1, old
            file.seek(header.offset)
            file.write(notes.replace(old, new))

    def exclude(self, start: int, end: int) -> None:
        """
        Take memory out of the core as makedumpfile does: ``p_filesz`` becomes smaller than ``p_memsz``.

        The file is rewritten with one program header more where something follows what is taken out.
        """
        old = self.load_at(start, end - start)
        parts = [(old.offset, old.vaddr, start - old.vaddr, end - old.vaddr)]
        rest = old.vaddr + old.filesz - end
        if rest:
            parts.append((old.offset + end - old.vaddr, end, rest, rest))
        data = bytearray(self.path.read_bytes())
        first = self.headers[0].at
        shift = (len(parts) - 1) * self.entry_size
        entries = []
        for header in self.headers:
            entry = bytes(data[header.at : header.at + self.entry_size])
            if header is old:
                entries += [self._load(*part, shift) for part in parts]
            else:
                entries.append(self._moved(entry, shift))
        count = len(entries)
        body = data[self.headers[-1].at + self.entry_size :]
        struct.pack_into(self.order + "H", data, 56 if self.wide else 44, count)
        self.path.write_bytes(bytes(data[:first]) + b"".join(entries) + bytes(body))

    def _load(self, offset: int, vaddr: int, filesz: int, memsz: int, shift: int) -> bytes:
        if self.wide:
            fields = (PT_LOAD, 0, offset + shift, vaddr, (1 << 64) - 1, filesz, memsz, 0)
            return struct.pack(self.order + "IIQQQQQQ", *fields)
        fields = (PT_LOAD, offset + shift, vaddr, (1 << 32) - 1, filesz, memsz, 0, 0)
        return struct.pack(self.order + "IIIIIIII", *fields)

    def _moved(self, entry: bytes, shift: int) -> bytes:
        layout, place = (self.order + "Q", 8) if self.wide else (self.order + "I", 4)
        moved = bytearray(entry)
        struct.pack_into(layout, moved, place, struct.unpack_from(layout, entry, place)[0] + shift)
        return bytes(moved)


def elf_core(notes: Sequence[tuple[str, bytes]], loads: Sequence[tuple[int, bytes]], machine: int = 62) -> bytes:
    """Make a little-endian ELF64 core of (name, description) notes and (address, bytes) segments."""
    note_data = b"".join(_note(name, data) for name, data in notes)
    offset = 64 + 56 * (1 + len(loads))
    table = struct.pack("<IIQQQQQQ", PT_NOTE, 0, offset, 0, 0, len(note_data), len(note_data), 0)
    body = note_data
    for address, data in loads:
        place = (PT_LOAD, 0, offset + len(body), address, 0, len(data), len(data), 0)
        table += struct.pack("<IIQQQQQQ", *place)
        body += data
    ident = b"\x7fELF\2\1\1" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, 64, 0, 0, 64, 56, 1 + len(loads), 0, 0, 0)
    return ident + header + table + body


def _note(name: str, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    header = struct.pack("<III", len(encoded), len(data), 1)
    return header + encoded + bytes(-len(encoded) % 4) + data + bytes(-len(data) % 4)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[dict[str, str]]:
    """Give a copy of the environment with some values changed."""
    changed = dict(os.environ)
    changed.update(values)
    yield changed
