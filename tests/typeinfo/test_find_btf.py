# SPDX-License-Identifier: LGPL-2.1-or-later
"""The search for BTF in memory that is not all there, against a search that looks at every byte."""

from __future__ import annotations

import struct

import pytest
from drgn import FaultError, Program
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.typeinfo import find_btf
from mminspect.typeinfo.find_btf import PAGE, SEARCH_STEP
from tests.kit.made import X86_64

MAGIC = struct.pack("<HBBII", 0xEB9F, 1, 0, 24, 0)
HEADER = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0x100000, 0x100000, 0x80000)
BASE = 0xFFFFFFFF81000000
STEPS = 16


class Memory:
    """Memory with holes, that counts how often it is read."""

    def __init__(self, data: bytes, holes: set[int]) -> None:
        self.data, self.holes, self.reads = data, holes, 0
        self.prog = Program(X86_64)
        self.prog.add_memory_segment(BASE, len(data), self._read, False)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        self.reads += 1
        if any(page in self.holes for page in range(offset // PAGE, (offset + count - 1) // PAGE + 1)):
            raise FaultError("a hole", address)
        return self.data[offset : offset + count]


def memory(at: int | None, holes: set[int]) -> Memory:
    data = bytearray(STEPS * SEARCH_STEP)
    if at is not None:
        data[at : at + len(HEADER)] = HEADER
    return Memory(bytes(data), holes)


@settings(max_examples=60, deadline=None)
@given(
    at=st.integers(0, (STEPS - 9) * SEARCH_STEP),
    holes=st.sets(st.integers(0, STEPS * SEARCH_STEP // PAGE - 1), max_size=12),
)
def test_btf_is_found_wherever_it_begins_if_it_is_all_there(at: int, holes: set[int]) -> None:
    # BTF of 0x180018 bytes has no holes.
    there = range(at // PAGE, (at + 0x180018) // PAGE + 1)
    one = memory(at, {page for page in holes if page not in there})
    assert find_btf._search(one.prog, MAGIC, BASE, BASE + STEPS * SEARCH_STEP) == BASE + at


def test_a_header_across_a_hole_is_none() -> None:
    data = bytearray(STEPS * SEARCH_STEP)
    data[PAGE - 4 : PAGE] = HEADER[:4]
    data[2 * PAGE : 2 * PAGE + 20] = HEADER[4:24]
    one = Memory(bytes(data), {1})
    assert find_btf._search(one.prog, MAGIC, BASE, BASE + STEPS * SEARCH_STEP) is None


@pytest.mark.parametrize("every", [1, 7, 63])
def test_what_is_not_there_is_not_read_page_by_page(every: int) -> None:
    one = memory(None, set(range(0, STEPS * SEARCH_STEP // PAGE, every)))
    assert find_btf._search(one.prog, MAGIC, BASE, BASE + STEPS * SEARCH_STEP) is None
    assert one.reads <= 2 * STEPS + 2 * SEARCH_STEP // PAGE
