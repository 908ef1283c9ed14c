# SPDX-License-Identifier: LGPL-2.1-or-later
"""The digest of struct pages says what the pages say one by one."""

from typing import Any, List
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect import digest as digest_
from mminspect.digest import combine, digest


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
def test_digests_of_parts_make_that_of_the_whole(sizes: List[int], seed: int) -> None:
    pages = struct_pages(sum(sizes), 3, "<u8", seed, 0)
    with mock.patch.object(digest_, "ROWS", 8):
        whole = digest(pages)
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        parts = [(start, digest(pages[start : start + size])) for start, size in zip(starts, sizes)]
        made = combine(parts)
    assert np.array_equal(whole.any, made.any) and np.array_equal(whole.all, made.all)
