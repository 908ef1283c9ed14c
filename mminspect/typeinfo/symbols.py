# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols of a kernel without DWARF: System.map, kallsyms in the kernel's memory, VMCOREINFO, a capture."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from drgn import Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind

from mminspect.errors import TypeInfoError
from mminspect.program.text import MAX_SYMBOL_NAME, kernel_name
from mminspect.program.vmcoreinfo import Vmcoreinfo
from mminspect.typeinfo.inputs import open_input
from mminspect.typeinfo.kallsyms import Find, LazyKallsyms

# More than ten times what the largest kernels have.
MAX_SYSTEM_MAP_SIZE = 128 << 20

# The name of the ELF note in which a capture keeps symbols that its memory doesn't hold. Its text is that of
# "nm -S": address, size, type letter and name.
CAPTURE_NOTE = "MMINSPECT"


def parse_system_map(text: str, path: str) -> list[tuple[int, str, str]]:
    """
    Parse a System.map.

    :param text: Lines of address (hexadecimal), type letter as of nm(1), and name.
    :param path: Its name for messages.
    :return: List of (address, type letter, name), sorted by address.
    :raises TypeInfoError: if it is something else.
    """
    result = []
    try:
        for line in text.splitlines():
            fields = line.split()
            # nm(1) gives symbols that are not defined no address.
            if len(fields) == 2 and len(fields[0]) == 1:
                continue
            address, letter, name = fields[:3]
            number = int(address, 16)
            if not 0 <= number < 1 << 64:
                raise ValueError("no address")
            result.append((number, letter, name))
    except ValueError:
        raise TypeInfoError(f"{path}: not a System.map (lines of address, type and name)") from None
    if not result:
        raise TypeInfoError(f"{path}: the System.map is empty")
    result.sort()
    return result


def read_system_map(path: str, vmcoreinfo: Vmcoreinfo) -> list[Symbol]:
    """
    Read the System.map of the target's kernel.

    :param path: Path of the file.
    :param vmcoreinfo: Tells the KASLR offset, and whether the file belongs to this kernel.
    :raises TypeInfoError: if it can't be read or is of another build.
    """
    with open_input(path, "a System.map") as file:
        data = file.read(MAX_SYSTEM_MAP_SIZE + 1)
    if len(data) > MAX_SYSTEM_MAP_SIZE:
        raise TypeInfoError(f"{path}: too large for a System.map")
    entries = parse_system_map(data.decode("ascii", "replace"), path)
    addresses = {name: address for address, _, name in entries}
    common = [name for name in ("_stext", "swapper_pg_dir", "init_uts_ns") if name in addresses]
    if not common:
        raise TypeInfoError(
            f"{path}: no System.map of a kernel: it has no _stext (Debian's /boot has a stand-in; the real one is in "
            f"linux-image-{vmcoreinfo.release}-dbg)"
        )
    for name in common:
        actual = vmcoreinfo.symbols.get(name)
        if actual is None:
            continue
        expected = addresses[name] + vmcoreinfo.kaslr_offset
        if actual != expected:
            raise TypeInfoError(
                f"{path}: of another build: it has {name} at {expected:#x}, "
                f"the target ({vmcoreinfo.release}) at {actual:#x}"
            )
    return symbols_from_entries(entries, vmcoreinfo.kaslr_offset)


def symbols_from_entries(entries: list[tuple[int, str, str]], offset: int) -> list[Symbol]:
    """
    Make drgn symbols of System.map entries.

    :param entries: As :func:`parse_system_map` returns them. A symbol ends where the next begins.
    :param offset: What KASLR adds to all but absolute symbols.
    """
    starts = sorted({address for address, _, _ in entries})
    result = []
    for address, letter, name in entries:
        index = bisect.bisect_right(starts, address)
        size = starts[index] - address if index < len(starts) else 0
        moved = address if letter in "Aa" else address + offset
        kind = SymbolKind.FUNC if letter in "Tt" else SymbolKind.OBJECT
        binding = SymbolBinding.GLOBAL if letter.isupper() else SymbolBinding.LOCAL
        result.append(Symbol(name, moved, size, binding, kind))
    return result


def format_note(symbols: Iterable[Symbol]) -> bytes:
    """Make the text of a capture's note."""
    lines = []
    for symbol in symbols:
        letter = "T" if symbol.kind == SymbolKind.FUNC else "D"
        lines.append(f"{symbol.address:016x} {symbol.size:016x} {letter} {symbol.name}")
    return "\n".join(sorted(lines)).encode()


def parse_note(note: bytes) -> list[Symbol]:
    """
    Parse the text of a capture's note.

    :raises TypeInfoError: if it is something else.
    """
    result = []
    try:
        for line in note.rstrip(b"\0").decode("ascii").splitlines():
            address, size, letter, name = line.split()
            kind = SymbolKind.FUNC if letter == "T" else SymbolKind.OBJECT
            result.append(
                Symbol(
                    kernel_name(name.encode(), MAX_SYMBOL_NAME),
                    int(address, 16),
                    int(size, 16),
                    SymbolBinding.GLOBAL,
                    kind,
                )
            )
    except (ValueError, OverflowError):
        raise TypeInfoError("the capture's note of symbols is damaged; make the capture again") from None
    return result


class SymbolTable:
    """
    All the symbols that are known of a kernel without DWARF.

    :ivar sources: Where they are from, in the order in which they are asked: ``system-map``,
        ``kallsyms``, ``capture``, ``vmcoreinfo``.
    """

    def __init__(self, prog: Program, vmcoreinfo: Vmcoreinfo) -> None:
        self._prog = prog
        self._vmcoreinfo = vmcoreinfo
        self.sources: list[str] = []

    def _register(self, name: str, finder: Find) -> None:
        self._prog.register_symbol_finder("mminspect-" + name, finder, enable_index=-1)
        self.sources.append(name)

    def add_system_map(self, path: str) -> None:
        """Add the symbols of a System.map file."""
        self._register("system-map", SymbolIndex(read_system_map(path, self._vmcoreinfo)))

    def add_capture_note(self, note: bytes) -> None:
        """Add the symbols that a capture carries in its note."""
        self._register("capture", SymbolIndex(parse_note(note)))

    def add_kallsyms(self, live: bool) -> None:
        """
        Add the symbols that the kernel has in its memory, if they can be found.

        :param live: Whether the kernel is running, and has ``/proc/kallsyms``.
        """
        if live or "kallsyms_names" in self._vmcoreinfo.symbols:
            self._register("kallsyms", LazyKallsyms(self._vmcoreinfo, live))

    def finish(self) -> None:
        """Say that no more sources are to come."""
        if self._vmcoreinfo.symbols:
            self.sources.append("vmcoreinfo")

    def address(self, name: str) -> int | None:
        """
        Get the address of a symbol.

        :return: Address with the KASLR offset in it, or ``None``.
        """
        # SYMBOL(mem_section) is the value of the pointer where it is one; see mem_section_value().
        if name in self._vmcoreinfo.symbols and name != "mem_section":
            return self._vmcoreinfo.symbols[name]
        try:
            return int(self._prog.symbol(name).address)
        except LookupError:
            return None

    def mem_section_value(self) -> int | None:
        """
        Get what VMCOREINFO calls ``SYMBOL(mem_section)``.

        VMCOREINFO_SYMBOL_ARRAY() writes the value, not the address, of a pointer.
        """
        return self._vmcoreinfo.symbols.get("mem_section")


def best_symbol(symbols: Iterable[Symbol]) -> Symbol | None:
    """
    Choose one of the symbols that contain an address, the same from every source of symbols.

    ``__crc_NAME`` is a checksum of CONFIG_MODVERSIONS and no address, though a System.map has it.

    :return: The nearest below the address, the first by name if there are more.
    """
    symbols = (symbol for symbol in symbols if not symbol.name.startswith("__crc_"))
    return min(symbols, key=lambda s: (-s.address, s.name), default=None)
