# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own configuration, from which the pageblock order of new kernels is told."""

from __future__ import annotations

import gzip
from types import SimpleNamespace
from typing import Any

import pytest
from drgn import (
    Architecture,
    FaultError,
    Platform,
    PlatformFlags,
    Program,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
)

from mminspect.layout import orders
from mminspect.layout.orders import MAX_CONFIG_SIZE, _kconfig

START = 0xFFFFFFFF82000000
CONFIG = b"""#
# Automatically generated file; DO NOT EDIT.
CONFIG_HUGETLB_PAGE=y
# CONFIG_CMA is not set
CONFIG_PAGE_BLOCK_MAX_ORDER=7
CONFIG_DEFAULT_HOSTNAME="(none)"
"""


def program(data: bytes | None, size: int) -> Program:
    """Make a program with a configuration, of which the symbols say a size."""
    prog = Program(Platform(Architecture.UNKNOWN, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN))
    ends = (("kernel_config_data", START), ("kernel_config_data_end", START + size))
    symbols = [Symbol(name, at, 0, SymbolBinding.GLOBAL, SymbolKind.OBJECT) for name, at in ends]
    prog.register_symbol_finder("test", SymbolIndex(symbols), enable_index=0)

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if data is None:
            raise FaultError("not in the dump", address)
        return data[offset : offset + count].ljust(count, b"\0")

    prog.add_memory_segment(START, MAX_CONFIG_SIZE + 1, read)
    return prog


def test_configuration_in_memory() -> None:
    packed = gzip.compress(CONFIG)
    assert _kconfig(program(packed, len(packed))) == {
        "CONFIG_HUGETLB_PAGE": "y",
        "CONFIG_PAGE_BLOCK_MAX_ORDER": "7",
        "CONFIG_DEFAULT_HOSTNAME": '"(none)"',
    }


@pytest.mark.parametrize("size", [0, -8, MAX_CONFIG_SIZE + 1])
def test_symbols_that_make_no_sense(size: int) -> None:
    assert _kconfig(program(gzip.compress(CONFIG), size)) is None


def test_configuration_that_is_damaged_or_missing() -> None:
    assert _kconfig(program(b"no gzip at all", 14)) is None
    assert _kconfig(program(None, 100)) is None
    assert _kconfig(Program()) is None


def test_configuration_that_never_ends_is_cut() -> None:
    packed = gzip.compress(b"CONFIG_A=" + bytes(4 * MAX_CONFIG_SIZE))
    config = _kconfig(program(packed, len(packed)))
    assert config is not None
    assert len(config["CONFIG_A"]) < MAX_CONFIG_SIZE


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # include/linux/pageblock-flags.h of 6.17: min(the huge page's order, CONFIG_PAGE_BLOCK_MAX_ORDER).
        (CONFIG, 7),
        (CONFIG.replace(b"MAX_ORDER=7", b"MAX_ORDER=10"), 9),
        (CONFIG.replace(b"CONFIG_PAGE_BLOCK_MAX_ORDER=7\n", b""), 9),
        (b"CONFIG_PAGE_BLOCK_MAX_ORDER=10\n", 10),
        (b"CONFIG_TRANSPARENT_HUGEPAGE=y\nCONFIG_PAGE_BLOCK_MAX_ORDER=8\n", 8),
    ],
)
def test_configuration_decides_the_pageblock_order(
    config: bytes, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gzip.compress(config)
    arch = SimpleNamespace(variable_pageblock_order=False, huge_page_order=lambda prog, page_shift: 9)
    monkeypatch.setattr(orders, "arch_of", lambda platform: arch)
    target: Any = SimpleNamespace(
        prog=program(packed, len(packed)), is_here=False, vmcoreinfo=SimpleNamespace(release="6.17.1")
    )
    assert orders._find_order(target, 12, 10, None) == (expected, "config")
