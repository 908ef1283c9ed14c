# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rules. Each is one file here; the docstring of the file is the rule's documentation.

A rule is a pure function of a chunk of the memmap. It yields *matches*: pfn ranges with a key. Matches of
the same key that touch are joined, also across chunks, and each joined match becomes one finding.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Protocol

from mminspect.findings import Finding
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.map import MemoryMap

# Says what lives at a kernel address. A function so that rules stay free of drgn.
WhatIs = Callable[[int], dict[str, object]]


class Match(NamedTuple):
    """
    Pages that a rule matched.

    :ivar start: First pfn.
    :ivar end: Pfn behind the last.
    :ivar key: Matches that touch and have equal keys are one.
    :ivar value: The ``page->flags`` of the first page, where a rule wants it.
    :ivar reserved: Whether all the pages are PG_reserved.
    """

    start: int
    end: int
    key: Any
    value: int = 0
    reserved: bool = True


class Tally(Protocol):
    """Counts over a whole walk, which several processes may share."""

    def count(self, chunk: Chunk) -> Any:
        """Count a chunk. The result can be pickled; nothing is remembered of it."""

    def add(self, part: Any) -> None:
        """Add what was counted in a chunk. Chunks come ascending, each once."""

    def findings(self) -> Iterable[Finding]:
        """Judge the counts when all chunks were counted."""


Check = Callable[[Chunk, MemoryMap], Iterable[Match]]
Describe = Callable[[Match, MemoryMap, WhatIs], Finding]


@dataclass(frozen=True)
class Commit:
    """A kernel commit that belongs to a rule; only verified hashes are listed."""

    hash: str
    title: str
    what: str


@dataclass(frozen=True)
class Rule:
    """
    A rule of the catalogue.

    :ivar id: Name in reports and on the command line.
    :ivar summary: One line.
    :ivar functions: Kernel functions that rely on what the rule checks.
    :ivar commits: Known commits.
    :ivar check: Finds matches in one chunk.
    :ivar describe: Makes a finding of a joined match.
    :ivar join: Whether touching matches are joined.
    :ivar per_key: Whether all matches of a key make one finding, wherever they are; ``describe_all``
        makes it.
    :ivar check_map: Finds what needs no struct page.
    :ivar tally: Makes a counter for a walk over all chunks. Not used where the kernel runs meanwhile.
    :ivar per_cpu: Whether it needs the per-CPU lists, which take time to follow. Not read where the kernel runs.
    """

    id: str
    summary: str
    functions: tuple[str, ...]
    commits: tuple[Commit, ...]
    check: Check
    describe: Describe
    join: bool = True
    describe_all: Callable[[Hashable, Sequence[Match], MemoryMap], Finding] | None = None
    check_gap: Callable[[int, int, MemoryMap], Iterable[Match]] | None = None
    check_map: Callable[[MemoryMap], Iterable[Finding]] | None = None
    tally: Callable[[MemoryMap], Tally] | None = None
    per_cpu: bool = False
    documentation: str | None = ""


def counted(number: int, name: str) -> str:
    """Put a number of things, one at least, into words."""
    return f"{number} {name}{'s' if number > 1 else ''}"


def no_matches(chunk: Chunk, memory: MemoryMap) -> Iterable[Match]:
    """Be the ``check`` of a rule that looks at no single page."""
    return ()


def never_described(match: Match, memory: MemoryMap, what_is: WhatIs) -> Finding:
    """Be the ``describe`` of such a rule."""
    raise AssertionError("the rule has no matches")


def join_matches(matches: Iterable[Match], pending: dict[Hashable, Match], start: int = 0) -> Iterator[Match]:
    """
    Join matches of equal key that touch.

    :param matches: Matches of one chunk, ascending.
    :param pending: The last match of each key so far; kept between calls.
    :param start: First pfn of the chunk. A pending match that ends before it is complete.
    :return: Iterator of matches that nothing can be joined to any more.
    """
    for key in [key for key, match in pending.items() if match.end < start]:
        yield pending.pop(key)
    for match in matches:
        last = pending.get(match.key)
        if last is not None and last.end == match.start:
            reserved = last.reserved and match.reserved
            pending[match.key] = Match(last.start, match.end, last.key, last.value, reserved)
            continue
        if last is not None:
            yield last
        pending[match.key] = match
