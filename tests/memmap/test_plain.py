# SPDX-License-Identifier: LGPL-2.1-or-later
"""That lists are followed quickly changes nothing of what is found on them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.memmap import plain
from mminspect.memmap.percpu import Walker, with_per_cpu_pages
from mminspect.memmap.plain import PlainPages
from mminspect.memorymap.percpu import ListFault
from mminspect.memorymap.sections import Section
from tests.conftest import Kernels
from tests.kit.handmade import memory_map, zone
from tests.kit.support import AMD64_NUMA
from tests.memmap.test_percpu import HEAD, LAYOUT, PAGES, VMEMMAP, Memory

OFFSETS = st.sampled_from((0, 8, 0x10, 0x30, 0x34))
VALUES = st.sampled_from((0, 1, 2 << 57, 0xF0000000, HEAD, *(Memory.lru(pfn) for pfn in range(PAGES))))
Faults = st.lists(st.tuples(st.integers(0, PAGES - 1), OFFSETS, VALUES), max_size=3)


def follow_slowly(memory: Memory, order: int) -> tuple[list[int], list[ListFault], bool]:
    """Follow a list and look at each page by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainPages, "follow", lambda self, zone, head, first, limit: ([], head, first))
        return memory.follow(order)


@settings(max_examples=500)
@given(st.lists(st.integers(0, PAGES // 4 - 1), unique=True), st.integers(0, 2), Faults)
def test_damaged_lists_have_the_same_faults(blocks: list[int], order: int, faults: list[tuple[int, int, int]]) -> None:
    memory = Memory([block * 4 for block in blocks])
    for pfn, offset, value in faults:
        memory.put(pfn, offset, "<Q" if offset < 0x30 else "<I", value & ((1 << 64 if offset < 0x30 else 1 << 32) - 1))
    assert memory.follow(order) == follow_slowly(memory, order)


def test_no_page_of_a_plain_list_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walker, "_wrong_because", None)
    assert Memory([9, 3, 40, 12]).follow() == ([9, 3, 40, 12], [], True)
    assert Memory([8, 40, 12]).follow(order=2) == ([8, 40, 12], [], True)


@pytest.mark.parametrize("order", [0, 1])
def test_limit_is_the_same(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(range(0, 40, 2))
    for limit in range(45):
        monkeypatch.setattr("mminspect.memmap.percpu.MAX_FOLLOWED", limit)
        assert memory.follow(order) == follow_slowly(memory, order)


def test_pages_are_read_from_the_file(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read without drgn is what drgn reads."""
    kernel = kernels(AMD64_NUMA)
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: reads.append(size) or pread(fd, size, offset))
    found = with_per_cpu_pages(kernel.target, kernel.memory).per_cpu
    assert len(reads) > 1000
    slow = with_per_cpu_pages(dataclasses.replace(kernel.target, direct=None), kernel.memory).per_cpu
    assert str(found) == str(slow)


@pytest.mark.parametrize("length", [0, 9 * 64, 9 * 64 + 100])
def test_a_file_that_got_shorter_is_left_to_drgn(length: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(length))

    class Direct:
        def place(self, address: int, size: int) -> int | None:
            return 0

        def fileno(self) -> int:
            return file.fileno()

    memory_of_guest = Memory([8, 40])
    prog: Any = memory_of_guest
    direct: Any = Direct()
    section = Section(0, ((0, PAGES),), VMEMMAP, 0x1000)
    memory = dataclasses.replace(memory_map(zone(1, 0, PAGES), layout=LAYOUT), sections=(section,))
    with path.open("rb") as file:
        pages = PlainPages(prog, memory, direct)
        assert pages.are_plain_behind(memory.populated_zones[0], [8, 40], 2)
        memory_of_guest.put(42, 0x34, "<I", 1)
        assert not pages.are_plain_behind(memory.populated_zones[0], [8, 40], 2)


def test_pages_that_cross_pieces_are_left_to_drgn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGES * 64))

    class Direct:
        def place(self, address: int, size: int) -> int | None:
            return address % VMEMMAP if address >= VMEMMAP else None

        def fileno(self) -> int:
            return file.fileno()

    pfns = [3, 9, 5]
    prog: Any = Memory(pfns)
    direct: Any = Direct()
    section = Section(0, ((0, PAGES),), VMEMMAP, 0x1000)
    memory = dataclasses.replace(memory_map(zone(1, 0, PAGES), layout=LAYOUT), sections=(section,))
    for shift, expected in ((5, pfns), (6, [])):
        monkeypatch.setattr(plain, "PIECE_SHIFT", shift)
        monkeypatch.setattr(plain, "PIECE", 1 << shift)
        monkeypatch.setattr(plain, "PIECE_MASK", (1 << shift) - 1)
        with path.open("rb") as file:
            pages = PlainPages(prog, memory, direct)
            # Once to find out where the pieces are, once to read them.
            for _ in range(2):
                assert pages.follow(memory.populated_zones[0], HEAD, Memory.lru(3), 10)[0] == expected
