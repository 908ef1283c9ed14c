# SPDX-License-Identifier: LGPL-2.1-or-later
"""
kallsyms: the symbol table that a kernel carries in its own memory.

The tables are those that the kernel's ``scripts/kallsyms.c`` writes. drgn has a reader for them too. It makes an index
of all symbols, which takes longer than all the rest of a small scan; an analysis asks for a few names. Here the tables
are kept as they are, and only names that can be the one that is asked for are decoded.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Callable, Optional

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program, Symbol, SymbolBinding, SymbolKind

from mminspect.errors import TypeInfoError
from mminspect.program import since
from mminspect.program.arch import elf_of
from mminspect.program.text import MAX_SYMBOL_NAME, kernel_name
from mminspect.program.vmcoreinfo import Vmcoreinfo

TOKENS = 256
# More than four times what the kernels of distributions have: 160,000 symbols in 3 MB of compressed names.
MAX_SYMBOLS = 1 << 20
MAX_NAMES_SIZE = 1 << 24
# KSYM_NAME_LEN: no name, and so no token, is longer.
MAX_NAME = 512

# The tables don't tell the sizes of symbols. One ends where the next begins, unless that is this far away: then there
# is a gap, and the size is not known. It is drgn's limit.
MAX_SYMBOL_SIZE = 0x10000

_KINDS = {**dict.fromkeys("bcdgrv", SymbolKind.OBJECT), "t": SymbolKind.FUNC}

Find = Callable[[Program, Optional[str], Optional[int], bool], Sequence[Symbol]]
Read = Callable[[int, int], bytes]
Bytes = npt.NDArray[np.uint8]
Addresses = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.intp]


class Kallsyms:
    """
    The symbols of a kernel's image.

    :param read: Reads kernel memory: address, size in bytes. Its errors are passed on.
    :param symbols: Addresses by name, as VMCOREINFO has them: where the tables are, and ``_stext``.
    :param order: ``<`` for little-endian, ``>`` for big-endian.
    :param word_bits: Bits of an ``unsigned long``.
    :param long_names: Whether the length of a name can have two bytes.
    :raises TypeInfoError: if a table is missing or makes no sense.
    """

    def __init__(
        self,
        read: Read,
        symbols: Mapping[str, int],
        order: str,
        word_bits: int,
        long_names: bool,
    ) -> None:
        def table(name: str) -> int:
            if "kallsyms_" + name not in symbols:
                raise TypeInfoError(f"VMCOREINFO has no kallsyms_{name}")
            return symbols["kallsyms_" + name]

        count = int(np.frombuffer(read(table("num_syms"), 4), order + "u4")[0])
        if not 0 < count <= MAX_SYMBOLS:
            raise TypeInfoError(f"kallsyms has {count} symbols")
        # Names, markers and tokens follow each other in every kernel whose VMCOREINFO names them.
        size = table("token_table") - table("names")
        if not 0 < size <= MAX_NAMES_SIZE:
            raise TypeInfoError("the names of kallsyms are not below its tokens")
        self._tokens = _read_tokens(read, table("token_index"), table("token_table"), order)
        self._names = read(table("names"), size)
        self._codes = np.frombuffer(self._names, np.uint8)
        heads, self._ends = _find_names(self._names, count, long_names)
        self._starts = heads + 1 + (self._codes[heads] >= (0x80 if long_names else 0x100))
        self._lengths = self._name_lengths(heads)
        if not 2 <= int(self._lengths.min()) <= int(self._lengths.max()) <= MAX_NAME + 1:
            raise TypeInfoError("kallsyms has names that can't be")
        self._addresses = self._read_addresses(read, symbols, order, word_bits)
        following = np.append(self._addresses[1:], self._addresses[-1])
        sizes = following - self._addresses
        self._sizes = np.where(sizes < MAX_SYMBOL_SIZE, sizes, np.uint64(0))
        # Most kernels have them sorted.
        self._by_address = np.argsort(self._addresses, kind="stable")
        self._sorted = self._addresses[self._by_address]

    def _name_lengths(self, heads: Positions) -> npt.NDArray[np.uint32]:
        """
        Get the number of characters of each symbol: the letter of its type and its name.

        :param heads: Where the bytes with each name's length are.
        """
        longest = 255
        if any(len(token) > longest for token in self._tokens):
            raise TypeInfoError("a token of kallsyms is too long")
        table = bytes(len(token) for token in self._tokens)
        lengths = np.frombuffer(self._names.translate(table), np.uint8).copy()
        # The bytes between two names are no tokens.
        lengths[heads] = 0
        lengths[self._starts - 1] = 0
        lengths = lengths[: self._ends[-1]]
        result: npt.NDArray[np.uint32] = np.add.reduceat(lengths, heads, dtype=np.uint32)
        return result

    def _read_addresses(self, read: Read, symbols: Mapping[str, int], order: str, word_bits: int) -> Addresses:
        """
        Read the addresses of all symbols.

        There are four ways to store them, see ``kallsyms_sym_address()``. ``_stext``, whose address VMCOREINFO tells,
        tells which one is in use.
        """
        count = len(self._starts)
        word = np.dtype(f"{order}u{word_bits // 8}")
        stext = symbols.get("_stext")
        # Until Linux 6.11, without CONFIG_KALLSYMS_BASE_RELATIVE, the addresses themselves are stored.
        where = symbols.get("kallsyms_addresses")
        if where is not None:
            return np.frombuffer(read(where, count * word.itemsize), word).astype(np.uint64)
        where = symbols.get("kallsyms_offsets")
        index = next(iter(self._find(b"_stext")), None)
        if where is None or stext is None or index is None:
            raise TypeInfoError("nothing tells how kallsyms stores addresses")
        offsets = np.frombuffer(read(where, count * 4), order + "u4").astype(np.uint64)
        signed = offsets.astype(np.uint32).view(np.int32).astype(np.int64).view(np.uint64)
        ways = []
        if "kallsyms_relative_base" in symbols:
            base = np.frombuffer(read(symbols["kallsyms_relative_base"], word.itemsize), word).astype(np.uint64)
            ways.append(base + offsets)
            # CONFIG_KALLSYMS_ABSOLUTE_PERCPU, until Linux 6.15: negative values are relative, others absolute.
            ways.append(np.where(signed >> np.uint64(63), base - np.uint64(1) - signed, offsets))
        else:
            # Since Linux 7.0, the offsets are from where each is stored; on 32-bit machines that don't relocate
            # themselves they are addresses.
            ways.append(offsets)
            ways.append(np.uint64(where) + np.arange(0, 4 * count, 4, dtype=np.uint64) + signed)
        mask = np.uint64((1 << word_bits) - 1)
        for way in ways:
            if int(way[index] & mask) == stext:
                addresses: Addresses = way & mask
                return addresses
        raise TypeInfoError("kallsyms stores addresses in a way that mminspect doesn't know")

    def _text(self, index: int) -> bytes:
        """Decode a symbol: the letter of its type and its name."""
        tokens = self._tokens
        return b"".join([tokens[token] for token in self._names[self._starts[index] : self._ends[index]]])

    def _find(self, name: bytes) -> list[int]:
        """Find the symbols of a name."""
        # Few names have the same length, begin with the same token and end with the same.
        # The type comes first; one token can be the whole name.
        first = np.array([name.startswith(token[1:]) for token in self._tokens])
        last = np.array([name.endswith(token) or token[1:] == name for token in self._tokens])
        found = np.flatnonzero(self._lengths == len(name) + 1)
        found = found[first[self._codes[self._starts[found]]] & last[self._codes[self._ends[found] - 1]]]
        return [index for index in found.tolist() if self._text(index)[1:] == name]

    def _symbol(self, index: int) -> Symbol:
        data = self._text(index)
        text = data[:1].decode("ascii", "replace") + kernel_name(data[1:], MAX_SYMBOL_NAME)
        letter = text[0].lower()
        if text[0] == "u":
            binding = SymbolBinding.UNIQUE
        elif letter in "vw":
            binding = SymbolBinding.WEAK
        else:
            # A lowercase letter says that a symbol is local, but not of all types.
            binding = SymbolBinding.GLOBAL if text[0].isupper() else SymbolBinding.UNKNOWN
        kind = _KINDS.get(letter, SymbolKind.UNKNOWN)
        return Symbol(text[1:], int(self._addresses[index]), int(self._sizes[index]), binding, kind)

    def _containing(self, address: int) -> list[int]:
        """Find the symbols that contain an address."""
        low = np.searchsorted(self._sorted, np.uint64(max(0, address + 1 - MAX_SYMBOL_SIZE)), "left")
        high = np.searchsorted(self._sorted, np.uint64(address), "right")
        near = self._by_address[low:high]
        return [int(i) for i in near if address - int(self._addresses[i]) < int(self._sizes[i])]

    def find(self, name: str | None, address: int | None) -> list[Symbol]:
        """
        Find symbols.

        :param name: Name, ``None`` for any.
        :param address: An address that they contain, ``None`` for any.
        :return: Symbols, sorted by address.
        """
        if address is not None:
            if not 0 <= address < 1 << 64:
                return []
            symbols = [self._symbol(index) for index in self._containing(address)]
            return [symbol for symbol in symbols if name is None or symbol.name == name]
        if name is not None:
            symbols = [self._symbol(index) for index in self._find(name.encode("utf-8", "surrogateescape"))]
            return sorted(symbols, key=lambda symbol: symbol.address)
        return [self._symbol(index) for index in self._by_address.tolist()]


def _read_tokens(read: Read, index: int, table: int, order: str) -> list[bytes]:
    """Read what each of the 256 bytes stands for."""
    starts = np.frombuffer(read(index, TOKENS * 2), order + "u2").tolist()
    data = read(table, max(starts) + MAX_NAME)
    tokens = [data[start : start + MAX_NAME].split(b"\0", 1) for start in starts]
    if any(len(parts) < 2 for parts in tokens):
        raise TypeInfoError("a token of kallsyms has no end")
    return [parts[0] for parts in tokens]


def _find_names(data: bytes, count: int, long_names: bool) -> tuple[Positions, Positions]:
    """
    Find the names, each of which has its length in bytes before it.

    :return: Positions of the lengths, and of the ends of the names.
    :raises TypeInfoError: if they don't fit.
    """
    heads = array("I")
    append = heads.append
    # A length of up to 127 has one byte.
    limit = 0x80 if long_names else 0x100
    pos = 0
    try:
        for _ in range(count):
            append(pos)
            size = data[pos]
            if size >= limit:
                # ULEB128, with two bytes at most.
                size = (size & 0x7F | data[pos + 1] << 7) + 1
            pos += size + 1
    except IndexError:
        pos = len(data) + 1
    if pos > len(data):
        raise TypeInfoError("the names of kallsyms run into what follows them")
    positions = np.frombuffer(heads, np.uint32).astype(np.intp)
    return positions, np.append(positions[1:], pos)


def read_kallsyms(prog: Program, vmcoreinfo: Vmcoreinfo) -> Kallsyms:
    """
    Read the kallsyms of a kernel.

    VMCOREINFO tells where since Linux kernel commit f09bddbd8661 ("vmcoreinfo: add kallsyms_num_syms symbol") (in
    v6.0).

    :raises TypeInfoError: if they are missing or make no sense.
    """
    elf = elf_of(prog.platform)
    try:
        return Kallsyms(
            prog.read,
            vmcoreinfo.symbols,
            elf.order,
            64 if elf.is_64_bit else 32,
            since.kallsyms_has_long_names(vmcoreinfo.release),
        )
    except (FaultError, ValueError, OverflowError) as e:
        raise TypeInfoError(f"kallsyms can't be read: {e}") from None


class LazyKallsyms:
    """
    A symbol finder that reads kallsyms when it is first asked. Most scans need no symbol that VMCOREINFO lacks.

    :param vmcoreinfo: Tells where the tables are.
    :param live: Whether the kernel is running, and has ``/proc/kallsyms``.
    """

    def __init__(self, vmcoreinfo: Vmcoreinfo, live: bool) -> None:
        self._vmcoreinfo = vmcoreinfo
        self._live = live
        self._find: Find | None = None

    def __call__(self, prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        """Find symbols for drgn; see ``drgn.Program.register_symbol_finder()``. Damaged tables have none."""
        if self._find is None:
            self._find = self._load(prog)
        return self._find(prog, name, address, one)

    def _load(self, prog: Program) -> Find:
        try:
            tables = read_kallsyms(prog, self._vmcoreinfo)
        except TypeInfoError:
            return _proc_kallsyms(prog) if self._live else _no_symbols

        def find(prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
            symbols = tables.find(name, address)
            return symbols[:1] if one else symbols

        return find


def _no_symbols(prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
    return []


def _proc_kallsyms(prog: Program) -> Find:
    """Read ``/proc/kallsyms``, where the kernel is too old for its tables to be found."""
    # Imported late: drgn loads all its helpers at once, and most scans need none.
    from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

    try:
        index: Find = load_vmlinux_kallsyms(prog)
        return index
    except (LookupError, FaultError, ValueError, OSError):
        return _no_symbols
    except Exception as e:
        # drgn has no narrower exception for a file that makes no sense.
        if type(e).__module__ not in ("builtins", "_drgn", "drgn"):
            raise
        return _no_symbols
