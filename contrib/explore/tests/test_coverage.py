# SPDX-License-Identifier: LGPL-2.1-or-later
"""Coverage: QEMU's log, and what it says of functions."""

from __future__ import annotations

from contrib.explore.coverage import Block, by_function, functions, log_filter, read_blocks, table
from contrib.explore.symbols import Symbols

SYMBOLS = Symbols(
    {
        "_stext": 0xFFFFFFFF81000000,
        "schedule": 0xFFFFFFFF81A0F000,
        "memblock_add": 0xFFFFFFFF81A0F081,
        "memblock_remove": 0xFFFFFFFF81A0F0F0,
        "_etext": 0xFFFFFFFF81A0F200,
        "memblock_memory_init_regions": 0xFFFFFFFF82A0F200,
        "_end": 0xFFFFFFFF83A0F200,
    }
)
LOG = b"""----------------
IN: memblock_add
0xffffffff81a0f081:  53                       pushq    %rbx
0xffffffff81a0f092:  65 48 8b 14 25 28 00 00  movq     %gs:0x28, %rdx
0xffffffff81a0f09a:  00
0xffffffff81a0f0ae:  74 20                    je       0xffffffff81a0f0d0

----------------
IN:
0xffffffff81a0f0d0:  48 8b 34 24              movq     (%rsp), %rsi
0xffffffff81a0f0e6:  e8 b7 fc ff ff           callq    0xffffffff81a0eda2

"""
BLOCKS = (Block(0xFFFFFFFF81A0F081, 0xFFFFFFFF81A0F0B0), Block(0xFFFFFFFF81A0F0D0, 0xFFFFFFFF81A0F0EB))


def test_blocks_reach_from_their_first_byte_to_behind_their_last() -> None:
    assert read_blocks(LOG) == BLOCKS
    assert read_blocks(LOG + LOG) == BLOCKS
    assert read_blocks(b"") == ()


def test_only_memory_initialization_is_logged() -> None:
    assert set(functions(SYMBOLS)) == {"memblock_add", "memblock_remove"}
    assert log_filter(SYMBOLS) == "0xffffffff81a0f081+0x6f,0xffffffff81a0f0f0+0x110"


def test_what_is_left_comes_first() -> None:
    first, second = by_function(SYMBOLS, BLOCKS)
    assert (first.name, first.reached, first.size) == ("memblock_remove", 0, 0x110)
    assert (second.name, second.reached, second.size) == ("memblock_add", 0x2F + 0x1B, 0x6F)
    assert "1 of 2 functions entered" in table([first, second])
