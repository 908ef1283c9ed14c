# SPDX-License-Identifier: LGPL-2.1-or-later
"""The index of an earlier vmcore is used only if it is right for the types at hand, however wrong it is."""

from __future__ import annotations

import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.typeinfo import btf_index
from mminspect.typeinfo.btf_index import KIND_ENUM64, KIND_INT, KIND_PTR, KIND_STRUCT, is_right, starts_of

HEADER = b"header"


def words_of(*records: tuple[int, int]) -> array[int]:
    """Make records of a kind and a number of elements, with noise in what follows."""
    sizes = {KIND_INT: (4, 0), KIND_PTR: (3, 0), KIND_STRUCT: (3, 3), KIND_ENUM64: (3, 3)}
    words: list[int] = []
    for kind, vlen in records:
        fixed, each = sizes[kind]
        words += [7, kind << 24 | vlen, 1, *[KIND_INT << 24] * (fixed - 3 + each * vlen)]
    return array("I", words)


WORDS = words_of((KIND_INT, 0), (KIND_STRUCT, 2), (KIND_PTR, 0), (KIND_ENUM64, 1), (KIND_PTR, 0))
# Counted by hand: 4, 3 + 2 * 3, 3, 3 + 3 and 3 words. Type 0 has no record.
RIGHT = struct.pack("=6I", 0, 0, 4, 13, 16, 22)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with nothing known."""
    monkeypatch.setattr(btf_index, "hints", {})
    monkeypatch.setattr(btf_index, "computed", {})


def test_index_is_computed_and_kept_to_be_a_hint() -> None:
    assert starts_of(HEADER, WORDS).tobytes() == RIGHT
    assert btf_index.computed[HEADER].tobytes() == RIGHT


def test_right_hint_spares_the_work() -> None:
    btf_index.hints[HEADER] = RIGHT
    assert starts_of(HEADER, WORDS).tobytes() == RIGHT
    assert not btf_index.computed


WRONG = {
    "nothing": b"",
    "half a word": RIGHT + b"\0\0",
    "one type short": RIGHT[:-4],
    "one type more": RIGHT + struct.pack("=I", 25),
    "outside": RIGHT[:-4] + struct.pack("=I", 0xFFFFFFFF),
    "last word": RIGHT[:-4] + struct.pack("=I", 24),
    "late": struct.pack("=5I", 0, 4, 13, 16, 22),
    "first isn't void": struct.pack("=6I", 4, 0, 4, 13, 16, 22),
    "skips one": struct.pack("=5I", 0, 0, 13, 16, 22),
    "begins inside a record": struct.pack("=7I", 0, 0, 4, 7, 13, 16, 22),
    "exchanged": struct.pack("=6I", 0, 0, 13, 4, 16, 22),
    "far too long": RIGHT * 9,
}


@pytest.mark.parametrize("hint", WRONG.values(), ids=WRONG)
def test_wrong_hint_changes_nothing(hint: bytes) -> None:
    btf_index.hints[HEADER] = hint
    assert starts_of(HEADER, WORDS).tobytes() == RIGHT


@given(st.lists(st.integers(0, 26), max_size=9), st.binary(max_size=40))
def test_only_the_right_one_is_right(starts: list[int], noise: bytes) -> None:
    for hint in (struct.pack(f"={len(starts)}I", *starts), noise):
        assert is_right(hint, WORDS) == (hint == RIGHT)


def test_hint_of_another_kernel_with_the_same_header_is_none() -> None:
    other = words_of((KIND_PTR, 0), (KIND_INT, 0), (KIND_STRUCT, 2), (KIND_ENUM64, 1), (KIND_PTR, 0))
    assert len(other) == len(WORDS)
    btf_index.hints[HEADER] = RIGHT
    assert starts_of(HEADER, other).tobytes() == struct.pack("=6I", 0, 0, 3, 7, 16, 22)
