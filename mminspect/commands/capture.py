# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Captures: small vmcores that hold only what an analysis reads.

A second program is laid over the target whose every read is passed on and recorded. It is scanned; then
the ranges that were read are copied into a new ELF core with virtual addresses, so that it needs no page tables.
Memory that nothing read isn't in it, not even the rest of a page.

Of the log, a capture has the lines of the kernel's reports, without the registers and the code of user space, and those
in which the boot tells of memory. Of the registers that the dump saved, it has those of the CPU that crashed, if it was
in the kernel, that can be a page's.
"""

from __future__ import annotations

import contextlib
from typing import IO, Callable

from drgn import FaultError, Program, Symbol, SymbolBinding, SymbolKind
from drgn.helpers.linux.mm import for_each_valid_page_range
from drgn.helpers.linux.mmzone import for_each_online_pgdat, for_each_present_section

from mminspect.commands.triage.dump_log import LOG_NOTE, read_dump_log
from mminspect.commands.triage.dump_log import format_note as format_log
from mminspect.commands.triage.pages import useful_registers
from mminspect.commands.triage.report import crash_of
from mminspect.commands.triage.reports import read_reports
from mminspect.commands.triage.saved import REGISTERS_NOTE, saved_registers
from mminspect.commands.triage.saved import format_note as format_registers
from mminspect.consequences.attach import Outcomes, attach
from mminspect.errors import MminspectError, TypeInfoError
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import Kernel
from mminspect.layout.read import read_booted
from mminspect.memmap.lru import read_heads
from mminspect.memorymap.ranges import Range, merge, subtract
from mminspect.memorymap.structpages import StructPages
from mminspect.program import corefile, files
from mminspect.program.arch import arch_of, elf_of
from mminspect.program.elf import ET_CORE, PN_XNUM, PT_NOTE, Header, Note, Segment
from mminspect.program.target import Target
from mminspect.rules.registry import select_rules
from mminspect.typeinfo import declarations
from mminspect.typeinfo.load import TypeSource, load
from mminspect.typeinfo.symbols import CAPTURE_NOTE, best_symbol, format_note
from mminspect.walk.engine import Scan
from mminspect.walk.scan import wanted

# Alignments in the file, by the least size of a segment: struct pages are aligned where it is mapped, and a large
# memmap is mapped by large pages. The page cache then must hold it in large folios, as it does if it is written in
# pieces as large.
ALIGNMENTS = ((32 << 20, 1 << 21), (1 << 20, 1 << 12))
PIECE = 1 << 21
# From how many bytes on struct pages are told apart from other memory.
MANY = 1 << 20
# Where a capture has BTF that wasn't in the kernel's memory: a low address that no kernel uses.
BTF_ADDRESS = 0x10000
# Ranges are merged when there are more than this many, to keep the memory flat.
MAX_RECORDED = 1 << 16
# Reads of a helper of drgn's: those of sections that aren't there, and of each that is.
MAX_HELPER_READS, READS_OF_SECTION = 1 << 16, 8
_NT_VMCOREINFO = 0
# Functions whose existence the analysis and drgn's helpers ask for.
_FUNCTIONS = ("_stext", "vmemmap_populate")


class Recorder:
    """
    A program whose reads are passed on to another program and recorded.

    :param source: Program to read from.
    :param vmcoreinfo: Its VMCOREINFO.
    :ivar prog: The program that records.
    :ivar reads_left: Reads until one is refused; ``None`` without a limit.
    """

    def __init__(self, source: Program, vmcoreinfo: bytes) -> None:
        self._source = source
        self._read: list[Range] = []
        self._excluded: list[Range] = []
        self._limit = MAX_RECORDED
        self.reads_left: int | None = None
        platform = source.platform
        assert platform is not None
        self.prog = Program(platform)
        self.prog.set_linux_kernel_custom(vmcoreinfo, False)
        self.prog.add_memory_segment(0, elf_of(platform).max_address, self._on_read)

    def _on_read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        if self.reads_left is not None:
            if not self.reads_left:
                raise FaultError("too many reads", address)
            self.reads_left -= 1
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


class Capture:
    """
    A capture of a kernel that is not written yet.

    :param kernel: The kernel; it is analyzed now.
    :param inputs: What it was opened with.
    :raises MminspectError: if the kernel can't be analyzed.
    :ivar size: Bytes that it has, before they are compressed.
    """

    def __init__(self, kernel: Kernel, inputs: Inputs) -> None:
        self._prog = kernel.prog
        self._embedded = _read_file(inputs.btf) if inputs.btf is not None else b""
        known = _symbols(kernel.target, kernel.types.btf_address, len(self._embedded))
        recording = _Recording(kernel, inputs, known)
        _record(recording)
        # Of the log, what "mminspect triage" uses.
        told = read_dump_log(kernel.target)
        notes = {
            "VMCOREINFO": recording.vmcoreinfo,
            CAPTURE_NOTE: format_note(known.values()),
            LOG_NOTE: format_log(told),
        }
        if kernel.target.incomplete is not None:
            notes[corefile.INCOMPLETE_NOTE] = kernel.target.incomplete.why.encode()
        crash = crash_of(read_reports(told.log.lines))
        saved = saved_registers(kernel.target, crash, told.cpu) if crash is not None else {}
        useful = useful_registers(saved, recording.memory) if saved else {}
        if useful:
            notes[REGISTERS_NOTE] = format_registers(useful)
        self._ranges = recording.recorder.ranges()
        self._struct_pages = StructPages(recording.memory)
        self._page_size = recording.memory.layout.page.size
        self._gaps: dict[int, int] = {}
        self._headers, self.size = self._lay_out(recording.recorder.excluded(), notes)

    def _lay_out(self, excluded: list[Range], notes: dict[str, bytes]) -> tuple[bytes, int]:
        """Get what stands before the memory, and the size of the file."""
        elf, arch = elf_of(self._prog.platform), arch_of(self._prog.platform)
        if not arch.elf_machine:
            raise MminspectError(
                f"captures of {arch.name} kernels can't be written: mminspect doesn't know their ELF machine"
            )
        loads: list[tuple[int, int, int]] = [(start, end - start, end - start) for start, end in self._ranges]
        loads += [(start, 0, end - start) for start, end in excluded]
        if self._embedded:
            loads.insert(0, (BTF_ADDRESS, len(self._embedded), len(self._embedded)))
        count = len(loads) + 1
        if count >= PN_XNUM:
            raise MminspectError(f"the analysis reads {len(loads)} separate ranges, too many for a capture")
        note_data = b"".join(elf.pack_note(Note(name, _NT_VMCOREINFO, data)) for name, data in notes.items())
        offset = elf.header_size + elf.segment_size * count
        headers = [
            elf.pack_header(Header(ET_CORE, arch.elf_machine, phoff=elf.header_size, phnum=count)),
            elf.pack_segment(Segment(offset, 0, 0, len(note_data), len(note_data), PT_NOTE)),
        ]
        offset += len(note_data)
        for address, filesz, memsz in loads:
            alignment = next((alignment for size, alignment in ALIGNMENTS if filesz >= size), 1)
            self._gaps[address] = (address - offset) % alignment
            offset += self._gaps[address]
            headers.append(elf.pack_segment(Segment(offset, address, elf.max_address, filesz, memsz)))
            offset += filesz
        return b"".join((*headers, note_data)), offset

    def write(self, out: IO[bytes], repeats: Callable[[int], None] | None = None) -> None:
        """
        Write the ELF core.

        :param repeats: Is called before what repeats at another distance than the bytes before: with the size of a
            struct page before many of them, with 0 before what doesn't repeat.
        """
        out.write(self._headers)
        if self._embedded:
            out.write(bytes(self._gaps[BTF_ADDRESS]))
            out.write(self._embedded)
        for start, end in self._ranges:
            if repeats is not None:
                repeats(self._page_size if self._are_struct_pages(start, end) else 0)
            out.write(bytes(self._gaps[start]))
            while start < end:
                stop = min((start // PIECE + 1) * PIECE, end)
                out.write(self._prog.read(start, stop - start))
                start = stop

    def _are_struct_pages(self, start: int, end: int) -> bool:
        """Tell whether a range is a large part of the memmap."""
        if end - start < MANY:
            return False
        return any(self._struct_pages.find(address) is not None for address in (start, end - 1))


def capture(kernel: Kernel, inputs: Inputs, out: IO[bytes]) -> int:
    """
    Write a capture of a kernel, not compressed.

    :param inputs: What it was opened with.
    :param out: Where to write.
    :return: Bytes written.
    :raises MminspectError: if the kernel can't be analyzed.
    """
    made = Capture(kernel, inputs)
    made.write(out)
    return made.size


def _read_file(path: str) -> bytes:
    with open(files.open_file(path), "rb") as file:
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


class _Recording(Kernel):
    """
    A kernel whose every read is passed on to another one and recorded.

    :param source: The other one.
    :param inputs: What it was opened with.
    :param known: Symbols of the capture by name; those that findings name are added.
    :ivar recorder: Has what was read.
    """

    def __init__(self, source: Kernel, inputs: Inputs, known: dict[str, Symbol]) -> None:
        self.vmcoreinfo: bytes = source.prog["VMCOREINFO"].string_()
        self.recorder = Recorder(source.prog, self.vmcoreinfo)
        core = corefile.CoreFile("elf", notes={CAPTURE_NOTE: format_note(known.values())})
        target = Target(self.recorder.prog, "vmcore", source.target.path, source.target.vmcoreinfo, core)
        super().__init__(target, _load_types(target, inputs), inputs.pageblock_order)
        self._source = source
        self._known = known

    def identify(self, address: int) -> dict[str, object]:
        """Say what lives at an address, and keep the symbol that it names."""
        symbol = best_symbol(self._source.prog.symbols(address))
        if symbol is not None:
            self._known[symbol.name] = symbol
            if symbol.address <= address < symbol.address + symbol.size:
                # In a capture with this symbol nothing more is asked, so nothing more is to be recorded.
                return {}
        return super().identify(address)


def _load_types(target: Target, inputs: Inputs) -> TypeSource:
    try:
        return load(target, btf=inputs.btf)
    except TypeInfoError:
        if not inputs.symbols:
            raise
        # The kernel has no BTF in its memory: the capture needs the vmlinux, as its original does.
        return load(target, inputs.symbols)


def _record(kernel: _Recording) -> None:
    """Do what a scan of the capture will do."""
    memmap = kernel.memmap
    rules = select_rules()
    scan = Scan(kernel.memory_for(*wanted(rules)), memmap, rules, kernel.identify)
    for _ in attach(scan.walk(), Outcomes(kernel)):
        pass
    _use_helpers(kernel)


def _use_helpers(kernel: _Recording) -> None:
    """Let drgn's own helpers read what they need, so that they work on the capture too; and what a fault would need."""
    read_booted(kernel.prog)
    for helper in (for_each_online_pgdat, for_each_present_section, for_each_valid_page_range):
        # Some of them don't know FLATMEM, or SPARSEMEM without VMEMMAP. drgn raises a plain Exception where the size of
        # struct mem_section is no power of two.
        # A damaged number of sections takes minutes to go through.
        kernel.recorder.reads_left = MAX_HELPER_READS + READS_OF_SECTION * len(kernel.memory.mem_sections)
        with contextlib.suppress(Exception):
            for _ in helper(kernel.prog):
                pass
    kernel.recorder.reads_left = None
    # What says where the LRU lists begin; their pages are in the memmap.
    read_heads(kernel.target, kernel.memory)
    # For "mminspect page" and "mminspect triage".
    _ = kernel.resources
