# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sections, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Callable, NamedTuple, TypeVar, overload

T = TypeVar("T")
KEPT_RECORDS = 64


class LazySequence(Sequence[T]):
    """
    Records that are made each time they are asked for. A machine may have half a million sections.

    :param count: Number of records.
    :param make: Makes one by its index.
    """

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count = count
        # Many pfns in a row are of one section.
        self._make = lru_cache(KEPT_RECORDS)(make)

    def __len__(self) -> int:
        """Return the number of records."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """Make a record, or some."""
        if isinstance(index, slice):
            return [self._make(i) for i in range(self._count)[index]]
        return self._make(range(self._count)[index])

    def __iter__(self) -> Iterator[T]:
        """Make all of them, one by one."""
        return map(self._make, range(self._count))

    def __eq__(self, other: object) -> bool:
        """Compare record by record."""
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(one == another for one, another in zip(self, other))

    __hash__ = None  # type: ignore[assignment]


class Section(NamedTuple):
    """
    A valid and online section, or a FLATMEM memmap as if it were one.

    :ivar nr: Section number.
    :ivar ranges: Online pfn ranges in it, half-open, ascending.
    :ivar mem_map: Address of the struct page of pfn 0, as if it were there (it often isn't).
    :ivar bitmap: Address of its pageblock bitmap, 0 if the kernel has no pointer to one. FLATMEM has
        its bitmaps in the zones.
    :ivar flags: Flag names, e.g. ``SECTION_IS_EARLY``.
    :ivar pageblock_flags: What is in the bitmap.
    :ivar absent: Ranges of an early section that ``pfn_to_online_page()`` refuses, as their subsections are absent,
        though ``pfn_valid()`` accepts them. None where the kernel looks at the section's flags only.
    """

    nr: int
    ranges: tuple[tuple[int, int], ...]
    mem_map: int
    bitmap: int
    flags: tuple[str, ...] = ()
    pageblock_flags: bytes = b""
    absent: tuple[tuple[int, int], ...] = ()

    def is_absent(self, pfn: int) -> bool:
        """Tell whether a pfn is in an absent subsection."""
        return any(start <= pfn < end for start, end in self.absent)


class SectionEntry(NamedTuple):
    """
    A ``struct mem_section`` that isn't empty, online or not.

    :ivar nr: Section number.
    :ivar flags: Flag names.
    :ivar mem_map: Address of the struct page of pfn 0, as if it were there; as in :class:`Section`.
    :ivar usage: The pointer to ``usage``, or to the bitmap before Linux 5.3.
    """

    nr: int
    flags: tuple[str, ...]
    mem_map: int
    usage: int
