# SPDX-License-Identifier: LGPL-2.1-or-later
"""kallsyms: against drgn's own reader on real tables, and against handmade tables of every kind."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import pytest
from drgn import FaultError, Program, Symbol
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.errors import TypeInfoError
from mminspect.program import open as target
from mminspect.typeinfo.kallsyms import MAX_NAME, MAX_SYMBOL_SIZE, Kallsyms, LazyKallsyms
from tests.kit.support import VMCORES

# Captures that hold the tables: relative to where each offset is stored; big-endian; 32 bits.
REAL = ("amd64-7.2-null", "s390x-6.12", "armhf-6.12")

BASE = 0x81000000
WAYS = ("addresses", "base", "percpu", "place")


def facts(symbols: Sequence[Symbol]) -> list[tuple[Any, ...]]:
    return [(s.name, s.address, s.size, s.binding, s.kind) for s in symbols]


def padded(prog: Program) -> Callable[[int, int], bytes]:
    """Make a reader that has zeros for what lies between the tables, which captures don't hold."""

    def held(address: int, size: int) -> bool:
        try:
            prog.read(address, size)
        except FaultError:
            return False
        return True

    def read(address: int, size: int) -> bytes:
        low, high = 0, size
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if held(address, middle) else (low, middle - 1)
        return prog.read(address, low).ljust(size, b"\0")

    return read


@pytest.mark.parametrize("name", REAL)
def test_same_symbols_as_drgn(name: str) -> None:
    opened = target.open_vmcore(str(VMCORES / f"{name}.xz"))
    prog, vmcoreinfo = opened.prog, opened.vmcoreinfo
    order, bits = (">", 64) if name.startswith("s390x") else ("<", 32 if name.startswith("armhf") else 64)
    truth = load_vmlinux_kallsyms(prog)
    tables = Kallsyms(padded(prog), vmcoreinfo.symbols, order, bits, True)
    everything = truth(prog, None, None, False)
    assert len(everything) > 50000
    assert facts(tables.find(None, None)) == facts(everything)
    for symbol in everything[:: len(everything) // 200]:
        assert facts(tables.find(symbol.name, None)) == facts(truth(prog, symbol.name, None, False))
        for address in (symbol.address - 1, symbol.address, symbol.address + symbol.size):
            if address >= 0:
                assert facts(tables.find(None, address)) == facts(truth(prog, None, address, False))
                both = truth(prog, symbol.name, address, False)
                assert facts(tables.find(symbol.name, address)) == facts(both)
    assert tables.find("no_such_symbol", None) == []


class Made(NamedTuple):
    """Tables in memory: pieces by address, and what VMCOREINFO says."""

    memory: dict[int, bytes]
    symbols: dict[str, int]

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.memory.items():
            if start <= address < start + len(data):
                return data[address - start :][:size].ljust(size, b"\0")
        raise FaultError("nothing there", address)


def make(entries: Sequence[tuple[int, str]], tokens: Sequence[str], way: str, order: str, bits: int) -> Made:
    """
    Write tables as ``scripts/kallsyms.c`` does, with tokens of any text.

    :param entries: (address, type letter and name); all but ``_stext``, which is put first.
    :param tokens: Texts of more than one character.
    """
    entries = [(BASE, "T_stext"), *entries]
    # Bytes that no name has stand for tokens.
    codes = {chr(c): c for c in range(32, 127)}
    codes.update(zip(tokens, range(128, 256)))
    longest_first = sorted(codes, key=len, reverse=True)
    names = b""
    for _, text in entries:
        packed = bytearray()
        while text:
            token = next(t for t in longest_first if text.startswith(t))
            packed.append(codes[token])
            text = text[len(token) :]
        size = len(packed)
        names += (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + packed
    table, index = b"", []
    texts = {code: token for token, code in codes.items()}
    for code in range(256):
        index.append(len(table))
        table += texts.get(code, "").encode() + b"\0"
    word = "Q" if bits == 64 else "I"
    where = BASE + 0x1000000
    memory = {
        where: struct.pack(order + "I", len(entries)),
        where + 0x100000: names,
        where + 0x200000: table,
        where + 0x300000: struct.pack(order + "256H", *index),
    }
    starts = ("num_syms", "names", "token_table", "token_index")
    symbols = {"kallsyms_" + name: address for name, address in zip(starts, memory)}
    symbols["_stext"] = BASE
    offsets, base = where + 0x400000, where + 0x500000
    addresses = [address for address, _ in entries]
    if way == "addresses":
        symbols["kallsyms_addresses"] = offsets
        memory[offsets] = struct.pack(f"{order}{len(addresses)}{word}", *addresses)
        return Made(memory, symbols)
    symbols["kallsyms_offsets"] = offsets
    if way == "place":
        values = [address - offsets - 4 * i for i, address in enumerate(addresses)]
    else:
        symbols["kallsyms_relative_base"] = base
        memory[base] = struct.pack(order + word, BASE)
        if way == "base":
            values = [address - BASE for address in addresses]
        else:
            values = [BASE - 1 - address if address >= BASE else address for address in addresses]
    memory[offsets] = struct.pack(f"{order}{len(values)}I", *(value % (1 << 32) for value in values))
    return Made(memory, symbols)


NAME = st.text("abcdefgh_.$0", min_size=1, max_size=300)
ENTRIES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 0x40000), st.integers(0x40000, 0x900000)), st.sampled_from("tTdDbBrRvVwWaAu"), NAME
    ),
    max_size=30,
)
TOKENS = st.lists(st.text("abcdefgh_.$0tTdD", min_size=2, max_size=12), max_size=100, unique=True)


@settings(max_examples=150, deadline=None)
@given(ENTRIES, TOKENS, st.sampled_from(WAYS), st.sampled_from("<>"), st.sampled_from((32, 64)))
def test_handmade_tables(
    entries: list[tuple[int, str, str]], tokens: list[str], way: str, order: str, bits: int
) -> None:
    # Only with "percpu" are there addresses far below the text.
    low = 0 if way == "percpu" else BASE
    wanted = sorted((BASE + a if a >= 0x40000 else low + a, letter + name) for a, letter, name in entries)
    made = make(wanted, tokens, way, order, bits)
    tables = Kallsyms(made.read, made.symbols, order, bits, True)
    listed = [(BASE, "T_stext"), *wanted]
    got = tables.find(None, None)
    assert sorted((s.address, s.name) for s in got) == sorted((a, text[1:]) for a, text in listed)
    following = dict(zip(range(len(listed)), [a for a, _ in listed[1:]]))
    for i, (address, text) in enumerate(listed):
        size = following.get(i, address) - address
        size = size if 0 <= size < MAX_SYMBOL_SIZE else 0
        found = tables.find(text[1:], None)
        assert (address, size) in [(s.address, s.size) for s in found]
        assert {s.name for s in found} == {text[1:]}
        assert [s.address for s in found] == sorted(a for a, t in listed if t[1:] == text[1:])
        inside = tables.find(None, address)
        assert ((text[1:], size) in [(s.name, s.size) for s in inside]) == (size > 0)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(WAYS), st.data())
def test_damaged_tables_are_refused_or_read(way: str, data: Any) -> None:
    made = make([(BASE + 16 * i, f"tsymbol_{i}") for i in range(40)], ["symbol_", "_1", "_2"], way, "<", 64)
    memory = {start: bytearray(piece) for start, piece in made.memory.items()}
    for _ in range(data.draw(st.integers(1, 4))):
        piece = memory[data.draw(st.sampled_from(sorted(memory)))]
        piece[data.draw(st.integers(0, len(piece) - 1))] = data.draw(st.integers(0, 255))
    damaged = Made({start: bytes(piece) for start, piece in memory.items()}, made.symbols)
    try:
        tables = Kallsyms(damaged.read, damaged.symbols, "<", 64, True)
    except TypeInfoError:
        return
    assert all(len(symbol.name) <= MAX_NAME for symbol in tables.find(None, None))
    tables.find("symbol_7", None)
    tables.find(None, BASE + 5)


@pytest.mark.parametrize("missing", ["names", "num_syms", "token_table", "token_index", "offsets"])
def test_a_table_that_is_not_named(missing: str) -> None:
    made = make([], [], "base", "<", 64)
    symbols = {name: address for name, address in made.symbols.items() if name != f"kallsyms_{missing}"}
    with pytest.raises(TypeInfoError):
        Kallsyms(made.read, symbols, "<", 64, True)


def test_tables_that_are_not_in_the_dump_have_no_symbols() -> None:
    opened = target.open_vmcore(str(VMCORES / "amd64-6.1-healthy.xz"))
    assert "kallsyms_names" in opened.vmcoreinfo.symbols
    finder = LazyKallsyms(opened.vmcoreinfo, False)
    assert finder(opened.prog, "_stext", None, False) == []


def test_short_names_only_before_6_1() -> None:
    made = make([(BASE + 16, "t" + "x" * 150)], [], "base", "<", 64)
    assert [s.name for s in Kallsyms(made.read, made.symbols, "<", 64, True).find(None, BASE)] == ["_stext"]
    names = made.symbols["kallsyms_names"]
    made.memory[names] = made.memory[names].replace(bytes([151 & 127 | 128, 1]), bytes([151]))
    tables = Kallsyms(made.read, made.symbols, "<", 64, False)
    assert [len(s.name) for s in tables.find(None, None)] == [6, 150]
