# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings in order, however many there are: beyond a number they are kept in a temporary file."""

from __future__ import annotations

import heapq
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, overload

from mminspect.errors import MminspectError
from mminspect.findings import SEVERITIES, Finding, sort_key
from mminspect.program import files

# Findings that are kept in memory, and items in their lists: of garbage, a pageblock links to as many zones as it has
# pages. A finding takes about 1 KB, an item 0.2 KB.
MAX_IN_MEMORY = 10000
MAX_ITEMS_IN_MEMORY = 50000
# Findings that are read from the file at once, or less if they have more items than this together.
BATCH = 128
BATCH_ITEMS = 2000
# What sort_key() returns.
Key = tuple[int, int, str, int, str]


def _items(finding: Finding) -> int:
    """Get how many items the lists of a finding have."""
    items = 0
    for value in finding.detail.values():
        if type(value) is list or type(value) is tuple:
            items += len(value)
    return items


def _batches(findings: Iterable[Finding]) -> Iterator[list[Finding]]:
    """Split findings into what is read at once."""
    batch: list[Finding] = []
    items = 0
    for finding in findings:
        batch.append(finding)
        items += _items(finding)
        if len(batch) == BATCH or items > BATCH_ITEMS:
            yield batch
            batch, items = [], 0
    if batch:
        yield batch


class Findings(Sequence[Finding]):
    """
    Findings, sorted by start pfn, end pfn and rule.

    Add all with :meth:`add` before anything is read.

    :ivar by_rule: Number of findings and of their pages, by rule.
    :ivar by_severity: Number of findings by severity.
    :ivar known: Number of those that a known bug or quirk explains, by severity and whether it is harmful.
    """

    def __init__(self) -> None:
        self._recent: list[Finding] = []
        self._file: IO[bytes] | None = None
        # Of the file's sorted parts: the first finding's key, and offsets at which they start and end.
        self._parts: list[tuple[Key, int, int]] = []
        self._length = 0
        self._sorted = True
        self._items = 0
        self.by_rule: dict[str, tuple[int, int]] = {}
        self.by_severity: dict[str, int] = {}
        self.known: dict[tuple[str, bool], int] = {}

    def add(self, finding: Finding) -> None:
        """
        Add a finding.

        :raises MminspectError: if there is no room for a temporary file.
        """
        number, pages = self.by_rule.get(finding.rule, (0, 0))
        self.by_rule[finding.rule] = number + 1, pages + finding.pages
        self.by_severity[finding.severity] = self.by_severity.get(finding.severity, 0) + 1
        if finding.known is not None:
            key = finding.severity, bool(finding.known["harmful"])
            self.known[key] = self.known.get(key, 0) + 1
        self._length += 1
        self._recent.append(finding)
        self._sorted = False
        self._items += _items(finding)
        if len(self._recent) >= MAX_IN_MEMORY or self._items >= MAX_ITEMS_IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        """Write what is in memory to the file, as one sorted part."""
        self._recent.sort(key=sort_key)
        try:
            if self._file is None:
                # It has no name, so it is gone on every way out.
                self._file = files.scratch()
            start = self._file.seek(0, 2)
            for batch in _batches(self._recent):
                pickle.dump(batch, self._file, pickle.HIGHEST_PROTOCOL)
            self._file.flush()
        except OSError as e:
            raise MminspectError(
                f"{self._length:,} findings so far, and no room for them in {tempfile.gettempdir()}: {e.strerror}"
            ) from None
        self._parts.append((sort_key(self._recent[0]), start, self._file.tell()))
        self._recent.clear()
        self._items = 0

    def _part(self, position: int, end: int) -> Iterator[Finding]:
        """Read one sorted part. Others are read in between."""
        file: Any = self._file
        while position < end:
            file.seek(position)
            # What is read is this process's own, from a file that no other can open.
            batch: list[Finding] = pickle.load(file)
            position = file.tell()
            yield from batch

    def counts(self) -> dict[str, Any]:
        """Count by severity, and those that are known, as a report's ``summary`` has it."""
        known = {
            severity: {"harmless": self.known.get((severity, False), 0), "harmful": self.known.get((severity, True), 0)}
            for severity in reversed(SEVERITIES)
        }
        return {
            "by_severity": {**dict.fromkeys(reversed(SEVERITIES), 0), **self.by_severity},
            "known": sum(self.known.values()),
            "known_by_severity": known,
        }

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Finding]:
        if not self._sorted:
            self._recent.sort(key=sort_key)
            self._sorted = True
        return self._merge() if self._parts else iter(self._recent)

    def _merge(self) -> Iterator[Finding]:
        """Go through all parts. One is opened when its first finding is due: those of a walk hardly overlap."""
        # Nothing of a part is read before it is asked for its first finding.
        sources = [(key, self._part(start, end)) for key, start, end in self._parts]
        if self._recent:
            sources.append((sort_key(self._recent[0]), iter(self._recent)))
        heap: list[tuple[Key, int, Finding | None]] = [(key, n, None) for n, (key, _) in enumerate(sources)]
        heapq.heapify(heap)
        while heap:
            _, n, finding = heap[0]
            if finding is not None:
                yield finding
            following = next(sources[n][1], None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (sort_key(following), n, following))

    @overload
    def __getitem__(self, index: int) -> Finding: ...

    @overload
    def __getitem__(self, index: slice) -> list[Finding]: ...

    def __getitem__(self, index: int | slice) -> Finding | list[Finding]:
        if self._parts:
            # Only tests and people in a shell index so many.
            return list(self)[index]
        iter(self)
        return self._recent[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(one == two for one, two in zip(self, other))

    __hash__ = None  # type: ignore[assignment]
