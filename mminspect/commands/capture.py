# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Captures: small vmcores that hold just what an analysis reads.

A second program is laid over the target whose every read is passed on and recorded. It is scanned; then
the ranges that were read are copied into a new ELF core with virtual addresses, so that it needs no page tables.
Memory that nothing read isn't in it, not even the rest of a page.

Of the log buffer, a capture has the report of a crash from its first line on, without the registers and the code of
user space, and nothing of what was logged before. Of the registers that the dump saved, it has those of the CPU that
crashed, if it was in the kernel, that can be a page's.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

import zstandard
from drgn import FaultError, Program, Symbol, SymbolBinding, SymbolKind
from drgn.helpers.linux.mm import for_each_valid_page_range
from drgn.helpers.linux.mmzone import for_each_online_pgdat, for_each_present_section

from mminspect.cli.output import open_output
from mminspect.commands.triage.lastwords import crash_lines, parse
from mminspect.commands.triage.log import read_log
from mminspect.commands.triage.registers import REGISTERS_NOTE, saved_registers
from mminspect.commands.triage.registers import format_note as format_registers
from mminspect.commands.triage.verdict import useful_registers
from mminspect.consequences.attach import Judge, attach
from mminspect.errors import MminspectError, TypeInfoError
from mminspect.kernel.identify import what_is
from mminspect.kernel.resources import resources
from mminspect.layout.read import read_booted, read_memory_map
from mminspect.memmap.calibrate import calibrate
from mminspect.memmap.percpu import with_per_cpu_pages
from mminspect.memmap.reader import Memmap
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range, merge, subtract
from mminspect.program import corefile
from mminspect.program import open as targets
from mminspect.program.arch import arch_of, elf_of
from mminspect.program.elf import ET_CORE, PN_XNUM, PT_NOTE, Header, Note, Segment
from mminspect.program.target import Target
from mminspect.rules.base import Identify
from mminspect.rules.registry import select_rules
from mminspect.typeinfo import declarations
from mminspect.typeinfo import load as typeinfo
from mminspect.typeinfo.symbols import CAPTURE_NOTE, best_symbol, format_note
from mminspect.walk.engine import Scan

# Alignments in the file, by the least size of a segment: struct pages are aligned where it is mapped, and a large
# memmap is mapped by large pages. The page cache then must hold it in large folios, as it does if it is written in
# pieces as large.
ALIGNMENTS = ((32 << 20, 1 << 21), (1 << 20, 1 << 12))
PIECE = 1 << 21
# Where a capture has BTF that wasn't in the kernel's memory: a low address that no kernel uses.
BTF_ADDRESS = 0x10000
# Ranges are merged when there are more than this many, to keep the memory flat.
MAX_RECORDED = 1 << 16
# Endings of compressed files that a capture can't be.
_OTHER_ENDINGS = (".7z", ".bz2", ".lz4", ".lzma", ".lzo", ".rar", ".tgz", ".z", ".zip", ".zstd")
_NT_VMCOREINFO = 0
# Functions whose existence the analysis and drgn's helpers ask for.
_FUNCTIONS = ("_stext", "vmemmap_populate")


class Recorder:
    """
    A program whose reads are passed on to another program and recorded.

    :param source: Program to read from.
    :param vmcoreinfo: Its VMCOREINFO.
    :ivar prog: The program that records.
    """

    def __init__(self, source: Program, vmcoreinfo: bytes) -> None:
        self._source = source
        self._read: list[Range] = []
        self._excluded: list[Range] = []
        self._limit = MAX_RECORDED
        self.prog = Program(source.platform)
        self.prog.set_linux_kernel_custom(vmcoreinfo, False)
        self.prog.add_memory_segment(0, elf_of(source.platform).max_address, self._on_read)

    def _on_read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            data: bytes = self._source.read(address, count)
        except FaultError as e:
            # A larger read that fails is tried again in parts.
            if "xcluded" in str(e) and count <= 4096:
                self._excluded.append((address, address + count))
            raise
        end = address + count
        # Tables are read in order, in small pieces.
        if self._read and self._read[-1][0] <= address <= self._read[-1][1]:
            self._read[-1] = (self._read[-1][0], max(end, self._read[-1][1]))
            return data
        self._read.append((address, end))
        if len(self._read) > self._limit:
            self._read = merge(self._read)
            self._limit = max(MAX_RECORDED, 2 * len(self._read))
        return data

    def ranges(self) -> list[Range]:
        """Get the address ranges that were read, ascending."""
        self._read = merge(self._read)
        return self._read

    def excluded(self) -> list[Range]:
        """Get the address ranges whose memory was left out of the target, ascending."""
        return subtract(merge(self._excluded), self.ranges())


def capture(
    core: str | None,
    symbols: Sequence[str],
    btf: str | None,
    system_map: str | None,
    pageblock_order: int | None,
    output: str,
) -> int:
    """
    Write a capture of a target.

    :param core: Path of the vmcore, or ``None`` for the running kernel.
    :param symbols: As in :func:`mminspect.typeinfo.load.load`, likewise ``btf`` and ``system_map``.
    :param output: Path of the new file. ``.gz``, ``.xz`` and ``.zst`` compress it.
    :return: Bytes written before compression.
    :raises MminspectError: if the target can't be analysed or the file can't be written.
    """
    with open_output(output, binary=True) as file, targets.opened(core) as target:
        source = typeinfo.load(target, symbols, btf, system_map)
        embedded = _read_file(btf) if btf is not None else b""
        known = _symbols(target, source.btf_address, len(embedded))
        vmcoreinfo = target.prog["VMCOREINFO"].string_()
        recorder = _record(target, known, vmcoreinfo, symbols, btf, pageblock_order)
        note = format_note(known.values())
        # Of the log, what the kernel said when it crashed, for "mminspect triage".
        lines = read_log(target.prog) or []
        read_log(recorder.prog, [line.seq for line in crash_lines(lines)])
        notes = {"VMCOREINFO": vmcoreinfo, CAPTURE_NOTE: note}
        crash = parse(lines)
        saved = saved_registers(target, crash) if crash is not None else {}
        useful = useful_registers(saved, read_memory_map(target, pageblock_order)) if saved else {}
        if useful:
            notes[REGISTERS_NOTE] = format_registers(useful)
        with _compressed(file, output) as out:
            return _write(target, recorder, notes, embedded, out)


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _symbols(target: Target, btf_address: int | None, embedded: int) -> dict[str, Symbol]:
    """Get the symbols that an analysis asks for by name."""
    prog = target.prog
    found: dict[str, Symbol] = {}
    for name in (*declarations.names(), *_FUNCTIONS):
        if name == "prb":
            # VMCOREINFO names it wherever it exists.
            continue
        symbol = best_symbol(prog.symbols(name))
        if symbol is not None:
            found[symbol.name] = symbol
    if embedded:
        btf_address = BTF_ADDRESS
    if btf_address is not None:
        found["__start_BTF"] = Symbol("__start_BTF", btf_address, 0, SymbolBinding.GLOBAL, SymbolKind.OBJECT)
    return found


def _remember_symbols(target: Target, shadow: Target, memory: MemoryMap, known: dict[str, Symbol]) -> Identify:
    """
    Make a function that says what lives at an address, and keeps the symbols that it names.

    :param known: Symbols of the capture by name; those that findings name are added.
    """
    look = what_is(shadow, memory)

    def remember(address: int) -> dict[str, Any]:
        symbol = best_symbol(target.prog.symbols(address))
        if symbol is not None:
            known[symbol.name] = symbol
            if symbol.address <= address < symbol.address + symbol.size:
                # In a capture with this symbol nothing more is asked, so nothing more is to be recorded.
                return {}
        return look(address)

    return remember


def _record(
    target: Target,
    known: dict[str, Symbol],
    vmcoreinfo: bytes,
    symbols: Sequence[str],
    btf: str | None,
    pageblock_order: int | None,
) -> Recorder:
    """
    Do what a scan of the capture will do, and record what it reads.

    :param known: Symbols of the capture by name; those that findings name are added.
    """
    recorder = Recorder(target.prog, vmcoreinfo)
    core = corefile.CoreFile("elf", notes={CAPTURE_NOTE: format_note(known.values())})
    shadow = Target(recorder.prog, "vmcore", target.path, target.vmcoreinfo, core)
    try:
        typeinfo.load(shadow, btf=btf)
    except TypeInfoError:
        if not symbols:
            raise
        # The kernel has no BTF in its memory: the capture needs the vmlinux, as its original does.
        typeinfo.load(shadow, symbols)
    memory = read_memory_map(shadow, pageblock_order)
    memmap = Memmap(recorder.prog, memory)
    calibrate(memmap, memory)
    memory = with_per_cpu_pages(shadow, memory)
    look = _remember_symbols(target, shadow, memory, known)
    for _ in attach(Scan(memory, memmap, select_rules(), look).walk(), Judge(shadow, memory, memmap, look)):
        pass
    _use_helpers(recorder.prog)
    return recorder


def _use_helpers(prog: Program) -> None:
    """Let drgn's own helpers read what they need, so that they work on the capture too; and what a fault would need."""
    read_booted(prog)
    for helper in (for_each_online_pgdat, for_each_present_section, for_each_valid_page_range):
        # Some of them don't know FLATMEM, or SPARSEMEM without VMEMMAP.
        with contextlib.suppress(LookupError, FaultError):
            for _ in helper(prog):
                pass
    # For "mminspect page" and "mminspect triage".
    resources(prog)


def check_ending(path: str) -> None:
    """
    Check that the ending of a path doesn't ask for a compression that a capture can't have.

    :raises MminspectError: if it does.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in _OTHER_ENDINGS:
        raise MminspectError(f"{path}: {ending} files can't be written; a capture is compressed as .gz, .xz or .zst")


@contextlib.contextmanager
def _compressed(file: IO[bytes], path: str) -> Iterator[IO[bytes]]:
    """Compress by the ending of the path. The same data gives the same file."""
    ending = os.path.splitext(path)[1].lower()
    if ending == ".gz":
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as out:
            yield cast(IO[bytes], out)
    elif ending == ".xz":
        with lzma.LZMAFile(file, "wb", preset=6) as out:
            yield out
    elif ending == ".zst":
        with zstandard.ZstdCompressor(level=10).stream_writer(file, closefd=False) as out:
            yield cast(IO[bytes], out)
    else:
        yield file


def _write(target: Target, recorder: Recorder, notes: dict[str, bytes], embedded: bytes, out: IO[bytes]) -> int:
    """Write the ELF core."""
    prog = target.prog
    elf, arch = elf_of(prog.platform), arch_of(prog.platform)
    if not arch.elf_machine:
        raise MminspectError(
            f"captures of {arch.name} kernels can't be written: mminspect doesn't know their ELF machine"
        )
    ranges = recorder.ranges()
    loads: list[tuple[int, int, int]] = [(start, end - start, end - start) for start, end in ranges]
    loads += [(start, 0, end - start) for start, end in recorder.excluded()]
    if embedded:
        loads.insert(0, (BTF_ADDRESS, len(embedded), len(embedded)))
    count = len(loads) + 1
    if count >= PN_XNUM:
        raise MminspectError(f"the analysis reads {len(loads)} separate ranges, too many for a capture")
    note_data = b"".join(elf.pack_note(Note(name, _NT_VMCOREINFO, data)) for name, data in notes.items())
    offset = elf.header_size + elf.segment_size * count
    out.write(elf.pack_header(Header(ET_CORE, arch.elf_machine, phoff=elf.header_size, phnum=count)))
    out.write(elf.pack_segment(Segment(offset, 0, 0, len(note_data), len(note_data), PT_NOTE)))
    offset += len(note_data)
    gaps: dict[int, int] = {}
    for address, filesz, memsz in loads:
        alignment = next((alignment for size, alignment in ALIGNMENTS if filesz >= size), 1)
        gaps[address] = (address - offset) % alignment
        offset += gaps[address]
        out.write(elf.pack_segment(Segment(offset, address, elf.max_address, filesz, memsz)))
        offset += filesz
    out.write(note_data)
    if embedded:
        out.write(bytes(gaps[BTF_ADDRESS]))
        out.write(embedded)
    for start, end in ranges:
        out.write(bytes(gaps[start]))
        while start < end:
            stop = min((start // PIECE + 1) * PIECE, end)
            out.write(prog.read(start, stop - start))
            start = stop
    return offset
