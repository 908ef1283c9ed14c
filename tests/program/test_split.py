# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which piece of a split dump is asked for which pages."""

from __future__ import annotations

from typing import Any

import pytest

from mminspect.program.split import SplitPages


class Piece:
    """Pages of one file: each byte names the file. It is asked for what it lacks, too, and says why it does."""

    def __init__(self, name: str, low: int, high: int) -> None:
        self.name, self.low, self.high = name, low, high
        self.page_size, self.end = 4, 400
        self.asked: list[tuple[int, int]] = []

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        self.asked.append((address, address + count))
        return self.name.encode() * count

    def gather(self, ranges: list[tuple[int, int]]) -> bytes | None:
        ((start, end),) = ranges
        self.asked.append((start, end))
        return None if end > self.high else self.name.encode() * 4 * (end - start)


@pytest.fixture
def pieces() -> list[Piece]:
    return [Piece("b", 20, 30), Piece("a", 10, 20), Piece("d", 40, 50)]


def pages(pieces: list[Piece]) -> SplitPages:
    made: Any = [((piece.low, piece.high), piece) for piece in pieces]
    return SplitPages(made)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (10, 20, "a" * 10),
        (19, 21, "ab"),
        (25, 30, "b" * 5),
        # What no piece has is asked of the one before; below all of them, of the first.
        (28, 42, "b" * 12 + "d" * 2),
        (30, 35, "b" * 5),
        (5, 12, "a" * 7),
        (5, 8, "a" * 3),
        (48, 55, "d" * 7),
        (60, 62, "d" * 2),
        (5, 45, "a" * 15 + "b" * 20 + "d" * 5),
    ],
)
def test_each_page_is_asked_of_one_piece(start: int, end: int, expected: str, pieces: list[Piece]) -> None:
    data = pages(pieces).read(4 * start, 4 * (end - start), 0, True)
    assert data.decode() == "".join(letter * 4 for letter in expected)
    asked = sorted(part for piece in pieces for part in piece.asked)
    assert asked[0][0] == 4 * start and asked[-1][1] == 4 * end
    assert all(one[1] == other[0] for one, other in zip(asked, asked[1:]))


def test_part_of_a_page(pieces: list[Piece]) -> None:
    assert pages(pieces).read(4 * 19 + 3, 2, 0, True) == b"ab"


def test_pages_of_several_places(pieces: list[Piece]) -> None:
    assert pages(pieces).gather([(18, 21), (40, 41)]) == b"a" * 8 + b"b" * 4 + b"d" * 4
    assert pages(pieces).gather([(18, 21), (49, 52)]) is None
