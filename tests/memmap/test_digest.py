# SPDX-License-Identifier: LGPL-2.1-or-later
"""The digest of struct pages says what the pages say one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.memmap import digest as digest_
from mminspect.memmap.digest import combine, digest, digests, numpy_fold

Fold = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], None]


@pytest.fixture(scope="module", autouse=True, params=["compiled", "numpy"])
def fold(request: pytest.FixtureRequest) -> Iterator[Fold]:
    """Have digests made by each of the two implementations."""
    if request.param == "numpy":
        chosen: Fold = numpy_fold
    else:
        chosen = pytest.importorskip("mminspect.memmap._digest", reason="no compiler when mminspect was installed").fold
    with mock.patch.object(digest_, "fold", chosen):
        yield chosen


def struct_pages(count: int, words: int, kind: str, seed: int, skew: int) -> npt.NDArray[Any]:
    """Make struct pages whose memory begins so many bytes beside a word."""
    size = np.dtype(kind).itemsize
    random = np.random.default_rng(seed)
    memory = np.zeros(count * words * size + 8, np.uint8)
    view = memory[skew : skew + count * words * size]
    # Few bits, so that some are in all pages and some in none.
    view[:] = random.integers(0, 256, len(view)) & 0x3C | 0x08
    return view.view(kind).reshape(count, words)


@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from(["<u8", ">u8", "<u4", ">u4"]),
    st.integers(0, 1 << 32),
    st.integers(0, 7),
)
def test_digest_says_what_the_pages_say(count: int, words: int, kind: str, seed: int, skew: int) -> None:
    pages = struct_pages(count, words, kind, seed, skew)
    with mock.patch.object(digest_, "ROWS", 4), mock.patch.object(digest_, "PIECE", 300):
        found = digest(pages)
    everything = (1 << 8 * np.dtype(kind).itemsize) - 1
    for word in range(words):
        column = [int(page[word]) for page in pages]
        some, every = 0, everything
        for value in column:
            some, every = some | value, every & value
        assert (found.any_bits(word * pages.itemsize), found.all_bits(word * pages.itemsize)) == (some, every)
        for row in range(4):
            some, every = 0, everything
            for value in column[row::4]:
                some, every = some | value, every & value
            assert (int(found.any[row, word]), int(found.all[row, word])) == (some, every)


@pytest.mark.parametrize("count", [1, digest_.ROWS - 1, digest_.ROWS, 3 * digest_.ROWS + 1, 40 * digest_.ROWS])
@pytest.mark.parametrize("where", ["first", "last"])
def test_no_page_is_left_out(count: int, where: str) -> None:
    pages = np.full((count, 8), 0xF0, np.uint64)
    pages[0 if where == "first" else -1, 3] = 0x0F
    found = digest(pages)
    assert (found.any_bits(24), found.all_bits(24)) == ((0xFF, 0) if count > 1 else (0x0F, 0x0F))
    assert (found.any_bits(16), found.all_bits(16)) == (0xF0, 0xF0)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 1 << 32))
def test_digests_of_parts_make_that_of_the_whole(sizes: list[int], seed: int) -> None:
    pages = struct_pages(sum(sizes), 3, "<u8", seed, 0)
    with mock.patch.object(digest_, "ROWS", 8):
        whole = digest(pages)
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        parts = [(start, digest(pages[start : start + size])) for start, size in zip(starts, sizes)]
        made = combine(parts)
    assert np.array_equal(whole.any, made.any) and np.array_equal(whole.all, made.all)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=5), st.integers(0, 1 << 32))
def test_digests_are_those_of_each_part(parts: list[tuple[int, int]], seed: int) -> None:
    pages = struct_pages(120, 3, "<u4", seed, 4)
    ranges = [(start, start + size) for start, size in parts]
    some, every = digests(pages, ranges)
    for (start, end), one, other in zip(ranges, some, every):
        expected = digest(pages[start:end])
        assert np.array_equal(one, expected.any) and np.array_equal(other, expected.all)


@given(st.integers(1, 9000), st.integers(0, 40000), st.integers(0, 70), st.integers(0, 1 << 32))
def test_rows_of_any_length_at_any_address(row: int, size: int, skew: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    memory = random.integers(0, 256, size + 2 * row + 3 * skew, np.uint8)
    pages, some, every = memory[skew : skew + size], memory[-2 * row : -row], memory[-row:]
    parts = [pages[start : start + row] for start in range(0, size, row)]
    any_, all_ = some.copy(), every.copy()
    for part in parts:
        any_[: len(part)] |= part
        all_[: len(part)] &= part
    before = memory[: len(memory) - 2 * row].copy()
    digest_.fold(pages, some, every)
    assert np.array_equal(some, any_) and np.array_equal(every, all_)
    assert np.array_equal(memory[: len(memory) - 2 * row], before)


def test_the_compiled_pass_refuses_what_it_would_write_behind(fold: Fold) -> None:
    if fold is numpy_fold:
        pytest.skip("numpy sees to that itself")
    row, frozen = np.zeros(8, np.uint8), np.zeros(8, np.uint8)
    frozen.flags.writeable = False
    for some, every in ((row, row[:4]), (row[:0], row[:0])):
        with pytest.raises(ValueError, match="one length"):
            fold(np.zeros(16, np.uint8), some, every)
    with pytest.raises((BufferError, ValueError, TypeError)):
        fold(np.zeros(16, np.uint8), frozen, row)
    with pytest.raises((BufferError, ValueError, TypeError)):
        fold(np.zeros(32, np.uint8)[::2], row, row.copy())
