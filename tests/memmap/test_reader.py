# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading the memmap: what a state is, where chunks end, and how a layout is calibrated."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any
from unittest import mock

import numpy as np
import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program
from hypothesis import given, settings
from hypothesis import strategies as st

from mminspect.errors import LayoutError
from mminspect.memmap import reader as memmap_
from mminspect.memmap.calibrate import calibrate
from mminspect.memmap.chunk import (
    DAMAGED,
    DEFERRED,
    INITIALIZED,
    OFFLINE,
    POISONED,
    STALE,
    UNINITIALIZED_KINDS,
    UNREADABLE_REASONS,
    ZEROED,
)
from mminspect.memmap.digest import digest
from mminspect.memmap.reader import Memmap, join_in_blocks
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import LazySequence, Section
from mminspect.memorymap.structpages import stretches
from mminspect.memorymap.zones import Node, Zone
from mminspect.program.direct import Bytes, DirectMemory
from tests.kit.handmade import PGDAT, SPARSE, memory_map, page_flags, zone

BASE = 0x1000000
SIZE = 64


def program(data: bytes, bad: tuple[int, int] = (0, 0)) -> Program:
    """Make a program with a memmap at BASE, part of which faults."""
    prog = Program(Platform(Architecture.UNKNOWN, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN))

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if address < bad[1] and bad[0] < address + count:
            raise FaultError("excluded from the dump", address)
        return data[address - BASE : address - BASE + count]

    prog.add_memory_segment(BASE, len(data), read)
    return prog


def entry(flags: int, mapcount: int = -1, refcount: int = 1, rest: int = 0) -> bytes:
    """Make a struct page."""
    data = bytearray(SIZE)
    struct.pack_into("<QQ", data, 0, flags, rest)
    struct.pack_into("<ii", data, 48, mapcount, refcount)
    return bytes(data)


GOOD = entry(page_flags(SPARSE, 0, 1))


def with_sections(memory: MemoryMap, *ranges: tuple[int, int]) -> MemoryMap:
    """Put one section into a memory map."""
    return dataclasses.replace(memory, sections=(Section(0, ranges, BASE, 1),))


def states(*entries: bytes, memory: MemoryMap | None = None) -> list[int]:
    """Get the states of entries."""
    memory = memory or memory_map(zone(0, 0, 4), zone(1, 4, 60))
    section = Section(0, ((0, len(entries)),), BASE, 1)
    reader = Memmap(program(b"".join(entries)), memory)
    return [int(s) for s in reader.chunk(0, len(entries), section).state]


NAMES: dict[str, Any] = {
    "all zero": (bytes(SIZE), ZEROED),
    "flags zero, count not": (entry(0), INITIALIZED),
    "flags and _mapcount zero, something else not": (entry(0, 0, 1), INITIALIZED),
    "zero but for the last byte": (bytes(SIZE - 1) + b"\1", INITIALIZED),
    "all ones": (b"\xff" * SIZE, POISONED),
    "flags all ones, the rest not": (entry((1 << 64) - 1), POISONED),
    "all ones but one bit of flags": (entry((1 << 64) - 2), INITIALIZED),
    "no such zone, plausible count": (entry(page_flags(SPARSE, 0, 5)), INITIALIZED),
    "no such zone, negative count": (entry(page_flags(SPARSE, 0, 5), refcount=-1), STALE),
    "no such zone, absurd count": (entry(page_flags(SPARSE, 0, 5), refcount=(1 << 24) + 1), STALE),
    "no such zone, large count": (entry(page_flags(SPARSE, 0, 5), refcount=1 << 24), INITIALIZED),
    "good zone, negative count": (entry(page_flags(SPARSE, 0, 1), refcount=-1), INITIALIZED),
}


@pytest.mark.parametrize("name", NAMES)
def test_state_of_an_entry(name: str) -> None:
    data, state = NAMES[name]
    assert states(GOOD, data, GOOD) == [INITIALIZED, state, INITIALIZED]


def deferred_from(pfn: int, start: int = 0, spanned: int = 64) -> MemoryMap:
    """Make a map whose node waits for initialization from a pfn."""
    return memory_map(zone(0, 0, 4), zone(1, 4, 60), nodes=[Node(0, PGDAT, start, spanned, spanned, pfn)])


def test_deferred_entries_begin_at_the_pfn_and_end_with_the_node() -> None:
    memory = deferred_from(6, 0, 8)
    expected = [INITIALIZED] * 4 + [ZEROED] * 2 + [DEFERRED] * 2 + [ZEROED]
    assert states(*[entry(0)] * 4, *[bytes(SIZE)] * 5, memory=memory) == expected


def test_entries_initialized_early_are_not_deferred() -> None:
    assert states(*[GOOD] * 8, memory=deferred_from(4)) == [INITIALIZED] * 8


def test_poison_that_waits_is_deferred() -> None:
    assert states(*[GOOD] * 5, b"\xff" * SIZE, memory=deferred_from(5))[5] == DEFERRED


def test_chunks_end_at_pageblocks_and_with_the_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memmap_, "CHUNK_PAGES", 16)
    memory = with_sections(memory_map(zone(1, 0, 64)), (3, 40), (48, 50))
    ranges = [(start, end) for start, end, _ in Memmap(program(bytes(64 * SIZE)), memory).ranges()]
    assert ranges == [(3, 16), (16, 32), (32, 40), (48, 50)]


def test_pfn_leads_to_its_section() -> None:
    sections = (
        Section(0, (), BASE, 1),
        Section(1, ((8, 10), (12, 16)), BASE, 1),
        Section(2, (), BASE, 1),
        Section(3, ((24, 32),), BASE, 1),
        Section(4, (), BASE, 1),
    )
    memory = dataclasses.replace(memory_map(zone(1, 0, 64)), sections=sections)
    found = {pfn: memory.section(pfn) for pfn in (-1, *range(64), 1 << 62, 1 << 70)}
    numbers = {pfn: section.nr for pfn, section in found.items() if section is not None}
    expected = {pfn: s.nr for s in sections for low, high in s.ranges for pfn in range(low, high)}
    assert numbers == expected
    assert list(memory.online_ranges()) == [(8, 10), (12, 16), (24, 32)]


def test_records_are_a_sequence() -> None:
    records = LazySequence(5, lambda index: index * 10)
    assert list(records) == [0, 10, 20, 30, 40] and len(records) == 5
    assert (records[-1], records[1:3], records == [0, 10, 20, 30, 40]) == (40, [10, 20], True)
    assert records != LazySequence(5, lambda index: index) and records != [0]
    with pytest.raises(IndexError):
        records[5]


def stretch_ranges(*sections: Section, width: int = 0) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
    """Get (number of the first section, ranges) of stretches."""
    memory = dataclasses.replace(memory_map(zone(1, 0, 64)), sections=sections)
    field = memory.layout.flags.section._replace(width=width)
    flags = memory.layout.flags._replace(section=field)
    memory = dataclasses.replace(memory, layout=dataclasses.replace(memory.layout, flags=flags))
    return [(section.nr, section.ranges) for section in stretches(memory)]


def test_adjacent_sections_of_one_memmap_are_one_stretch() -> None:
    sections = [Section(nr, ((nr * 8, nr * 8 + 8),), BASE, 1) for nr in range(4)]
    assert stretch_ranges(*sections) == [(0, ((0, 32),))]
    # page->flags has the section of each page.
    assert len(stretch_ranges(*sections, width=4)) == 4


@pytest.mark.parametrize(
    "other",
    [
        Section(1, ((8, 16),), BASE + 64, 1),
        Section(1, ((8, 16),), BASE, 0),
        Section(1, ((9, 16),), BASE, 1),
        Section(1, ((8, 10), (12, 16)), BASE, 1),
    ],
    ids=["another memmap", "no bitmap", "a hole before", "a hole inside"],
)
def test_sections_that_differ_are_stretches_of_their_own(other: Section) -> None:
    first, last = Section(0, ((0, 8),), BASE, 1), Section(2, ((16, 24),), BASE, 1)
    expected = [(0, first.ranges), (1, other.ranges), (2, last.ranges)]
    assert stretch_ranges(first, other, last) in (expected, [(0, first.ranges), (1, ((9, 24),))])


def test_chunk_is_never_smaller_than_a_pageblock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memmap_, "CHUNK_PAGES", 2)
    memory = with_sections(memory_map(zone(1, 0, 64)), (0, 24))
    ranges = [(start, end) for start, end, _ in Memmap(program(bytes(64 * SIZE)), memory).ranges()]
    assert ranges == [(0, 8), (8, 16), (16, 24)]


def test_calibration_accepts_a_zone_with_one_page_in_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mminspect.memmap.calibrate.CALIBRATION_PAGES", 8)
    monkeypatch.setattr("mminspect.memmap.calibrate.CHUNK_PAGES", 16)
    other = entry(page_flags(SPARSE, 0, 2))
    memory = with_sections(memory_map(zone(1, 0, 64), zone(2, 0, 64)), (0, 64))
    calibrate(Memmap(program(other * 30 + GOOD + other * 33), memory), memory)


def test_calibration_refuses_a_zone_that_no_page_links_to() -> None:
    memory = with_sections(memory_map(zone(1, 0, 32), zone(2, 32, 32)), (0, 64))
    with pytest.raises(LayoutError, match="no page of node 0 zone Normal decodes to it"):
        calibrate(Memmap(program(GOOD * 64), memory), memory)


def test_calibration_needs_no_page_of_a_zone_without_present_pages() -> None:
    empty = dataclasses.replace(zone(2, 32, 32), present=0)
    memory = with_sections(memory_map(zone(1, 0, 32), empty), (0, 64))
    calibrate(Memmap(program(GOOD * 64), memory), memory)


def test_calibration_refuses_a_target_without_a_memmap() -> None:
    memory = with_sections(memory_map(zone(1, 0, 64)), (0, 64))
    with pytest.raises(LayoutError, match="not one struct page"):
        calibrate(Memmap(program(GOOD * 64, (BASE, BASE + 64 * SIZE)), memory), memory)


def test_calibration_is_content_with_what_can_be_read() -> None:
    memory = with_sections(memory_map(zone(1, 0, 256)), (0, 256))
    calibrate(Memmap(program(GOOD * 256, (BASE, BASE + 64 * SIZE)), memory), memory)


def test_parts_of_one_pageblock_are_one_range() -> None:
    assert list(join_in_blocks([(0, 3), (5, 8)], 8)) == [(0, 8)]


def test_parts_of_different_pageblocks_stay_apart() -> None:
    assert list(join_in_blocks([(0, 8), (16, 24)], 8)) == [(0, 8), (16, 24)]


def test_many_parts_are_joined_one_after_the_other() -> None:
    assert list(join_in_blocks([(0, 2), (3, 5), (6, 9), (12, 14), (17, 18)], 8)) == [(0, 14), (17, 18)]


# What a page can be, the first two most of all: then the whole chunk has one link.
ENTRIES = (
    GOOD,
    entry(page_flags(SPARSE, 0, 1, True), 0, 0),
    entry(page_flags(SPARSE, 0, 0)),
    entry(page_flags(SPARSE, 0, 5)),
    entry(page_flags(SPARSE, 0, 5), refcount=-1),
    entry(page_flags(SPARSE, 15, 7)),
    bytes(SIZE),
    entry(0, 0, 1),
    b"\xff" * SIZE,
)


def of_one_kind(kind: int) -> st.SearchStrategy[list[bytes]]:
    """Make pages of one kind with a few others among them."""
    pages = st.lists(st.sampled_from([ENTRIES[kind]] * 12 + list(ENTRIES)), min_size=1, max_size=40)
    return pages | st.integers(1, 40).map(lambda size: [ENTRIES[kind]] * size)


@settings(max_examples=300)
@given(st.integers(0, len(ENTRIES) - 1).flatmap(of_one_kind), st.sampled_from((None, 0, 8, 30)), st.integers(0, 3))
def test_a_chunk_of_one_link_is_what_page_by_page_decoding_makes(
    entries: list[bytes], deferred: int | None, hole: int
) -> None:
    # Zone 7 of node 15 exists, and its link has the same bits as poison.
    layout = dataclasses.replace(SPARSE, max_nr_zones=8)
    memory = deferred_from(deferred, 0, 64) if deferred is not None else memory_map(zone(0, 0, 4), zone(1, 4, 60))
    last = Zone(15, 7, "Device", 0, 64, 64, 64)
    memory = dataclasses.replace(memory, layout=layout, zones=(*memory.zones, last))
    size = len(entries)
    ranges = ((0, size),) if not hole or size < 4 else ((0, size - hole), (size - hole + 1, size + 8))
    section = Section(0, ranges, BASE, 1)
    fast = Memmap(program(b"".join(entries)), memory).chunk(0, size, section)
    with mock.patch("mminspect.memmap.decode.Decoder.only_link", return_value=None):
        slow = Memmap(program(b"".join(entries)), memory).chunk(0, size, section)
    assert fast.runs == slow.runs
    for column in ("flags", "link", "state"):
        one, other = getattr(fast, column), getattr(slow, column)
        assert one.dtype == other.dtype and one.tolist() == other.tolist()


@pytest.mark.parametrize(("runs", "parts"), [(1023, 1), (1025, 8)])
def test_chunk_of_many_runs_is_judged_in_parts(runs: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = 1 << 15
    layout = dataclasses.replace(SPARSE, max_order=10)
    memory = with_sections(memory_map(zone(0, 0, 4), zone(1, 4, pages), layout=layout), (0, pages))
    other = entry(page_flags(SPARSE, 0, 0))
    data = b"".join(other if pfn % 2 and pfn < runs else GOOD for pfn in range(pages))
    reader = Memmap(program(data), memory)
    whole = reader.chunk(0, pages, memory.sections[0])
    assert len(whole.runs) == runs
    chunks = list(reader.chunks())
    assert [chunk.start_pfn for chunk in chunks] == [n * (pages // parts) for n in range(parts)]
    for name in ("flags", "link", "state", "words"):
        assert np.array_equal(np.concatenate([getattr(chunk, name) for chunk in chunks]), getattr(whole, name))


class Window(DirectMemory):
    """A memmap at BASE of which 1024 pages are read at once."""

    at_once = 1024 * SIZE

    def __init__(self, data: bytes) -> None:
        self._data_ = np.frombuffer(data, np.uint8)

    def holds(self, address: int) -> bool:
        return True

    def read(self, address: int, size: int) -> Bytes | None:
        return self._data(address, size)

    def _data(self, address: int, size: int) -> Bytes | None:
        return self._data_[address - BASE : address - BASE + size]


OTHER = entry(page_flags(SPARSE, 0, 1, True))
NO_FLAGS = entry(0)
FREE = entry(page_flags(SPARSE, 0, 1), mapcount=-129)


@pytest.mark.parametrize(
    ("pages", "ends"),
    [
        ([GOOD * 1024], [1024]),
        ([GOOD * 512, OTHER * 256, GOOD * 256], [512, 768, 1024]),
        ([GOOD * 512, OTHER * 512], [512, 1024]),
        ([GOOD * 300, OTHER, GOOD * 723], [256, 512, 1024]),
        ([FREE, GOOD * 511, FREE, GOOD * 511], [1024]),
        ([NO_FLAGS * 1024], [1024]),
        # These may be no pages at all, which takes a look at each.
        ([bytes(SIZE) * 1024], [256, 512, 768, 1024]),
        ([NO_FLAGS * 512, bytes(SIZE) * 512], [512, 768, 1024]),
    ],
)
def test_adjacent_chunks_that_are_dull_and_alike_are_one(
    pages: list[bytes], ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memmap_, "CHUNK_PAGES", 256)
    data = b"".join(pages)
    memory = with_sections(memory_map(zone(0, 0, 4), zone(1, 4, 1024)), (0, 1024))
    joined = list(Memmap(program(data), memory, direct=Window(data)).chunks())
    assert [chunk.end_pfn for chunk in joined] == ends
    single = list(Memmap(program(data), memory).chunks())
    for name in ("flags", "link", "state", "words"):
        one, other = (np.concatenate([getattr(chunk, name) for chunk in chunks]) for chunks in (joined, single))
        assert np.array_equal(one, other)
    for chunk in joined:
        assert chunk.words is not None
        fresh = digest(chunk.words)
        assert np.array_equal(chunk.digest.any, fresh.any) and np.array_equal(chunk.digest.all, fresh.all)


def test_damaged_data_are_not_called_unmapped() -> None:
    message = "could not read memory from kdump: Decompresion failed: incorrect header check"
    memory = with_sections(memory_map(zone(0, 0, 4), zone(1, 4, 60)), (0, 64))
    prog = program(GOOD * 64)

    def fail(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError(message, address)

    prog.add_memory_segment(BASE, 64 * SIZE, fail)
    (chunk,) = Memmap(prog, memory).chunks()
    assert set(chunk.state.tolist()) == {DAMAGED}


def test_each_state_is_one_and_has_one_name() -> None:
    assert (len(UNINITIALIZED_KINDS), len(UNREADABLE_REASONS)) == (4, 5)
    states = {INITIALIZED, OFFLINE, *UNINITIALIZED_KINDS, *UNREADABLE_REASONS}
    assert len(states) == 11
    # Runs up to DEFERRED were read; what is not online is the last.
    assert max(UNINITIALIZED_KINDS) == DEFERRED < min(UNREADABLE_REASONS)
    assert max(states) == OFFLINE
