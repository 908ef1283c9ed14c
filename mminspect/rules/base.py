# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What rules are made of: kinds of checks, and what these yield.

Each rule is one file of this package. Its docstring is the rule's documentation, and its ``RULE`` has checks:

- :class:`PageCheck` looks at the pages of one chunk of the memmap and yields *matches*: pfn ranges with a key. Matches
  of equal keys that touch are joined, also across chunks, and each joined match becomes one finding.
- :class:`KeyCheck` does too, but all matches of a key make one finding, wherever they are.
- :class:`MapCheck` needs no struct page.
- :class:`TallyCheck` counts over a whole walk.
- :class:`ProcCheck` compares with what the running kernel says.

A rule yields :class:`Violation` objects; its ID, range, node and zone are filled in here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Callable, NamedTuple, Protocol, Union

from mminspect.findings import NOTE, PAGES, TARGET, Finding
from mminspect.memmap.chunk import Chunk
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.proc import ProcFiles
from mminspect.memorymap.ranges import Range
from mminspect.memorymap.zones import Node, Zone
from mminspect.rules.commits import Commit

# Says what lives at a kernel address. A function so that rules stay free of drgn.
Identify = Callable[[int], dict[str, object]]


class Match(NamedTuple):
    """
    Pages that a rule matched.

    :ivar start: First pfn.
    :ivar end: Pfn behind the last.
    :ivar key: Matches that touch and have equal keys are one; without a key, those with equal links.
    :ivar link: Link of the pages, ``None`` for rules that follow no link.
    :ivar value: A number of the first page that its rule wants, such as ``page->flags``; not part of the key.
    :ivar reserved: Whether all the pages are PG_reserved.
    """

    start: int
    end: int
    key: Any = None
    link: int | None = None
    value: int = 0
    reserved: bool = True

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.end - self.start


class Violation(NamedTuple):
    """
    What a rule says of a place where it is broken.

    :ivar severity: ``error``, ``warning`` or ``note``.
    :ivar message: One sentence: what is wrong and why it matters.
    :ivar detail: What the rule's documentation names.
    :ivar of: What it is about, where that isn't the zone that the match's pages link to, or the first one that spans
        the pages. The memory map stands for the whole machine: no node and no zone.
    :ivar pages: Half-open range of pfns, where it isn't that of the match or of the zone or node.
    :ivar named: As in :class:`mminspect.findings.Finding`; ``wrong`` and ``judged_by`` too.
    """

    severity: str
    message: str
    detail: dict[str, Any]
    of: Zone | Node | MemoryMap | None = None
    pages: Range | None = None
    named: tuple[Range, ...] = ()
    wrong: tuple[Range, ...] = ()
    judged_by: int | None = None


class Tally(Protocol):
    """Counts over a whole walk, which several processes may share."""

    def count(self, chunk: Chunk) -> Any:
        """Count a chunk. The result can be pickled; nothing is remembered of it."""

    def add(self, part: Any) -> None:
        """Add what was counted in a chunk. Chunks come ascending, each once."""

    def violations(self) -> Iterable[Violation]:
        """Judge the counts when all chunks were counted."""


class PageCheck(NamedTuple):
    """
    A check of the pages of a chunk.

    :ivar check: Finds matches in one chunk, ascending.
    :ivar describe: Says what is wrong with a joined match.
    :ivar join: Whether touching matches are joined.
    :ivar alike: Gets what of a match decides the severity: where garbage has many matches in a pageblock, one finding
        stands for all those of which it is equal. Without it, each match is a finding.
    """

    check: Callable[[Chunk, MemoryMap], Iterable[Match]]
    describe: Callable[[Match, MemoryMap, Identify], Violation]
    join: bool = True
    alike: Callable[[Match, MemoryMap], Hashable] | None = None


class KeyCheck(NamedTuple):
    """
    A check that makes one finding of all matches of a key.

    :ivar check: Finds matches in one chunk.
    :ivar check_gap: Finds matches in pfns none of which is online.
    :ivar describe: Says what is wrong with the matches of a key.
    """

    check: Callable[[Chunk, MemoryMap], Iterable[Match]]
    check_gap: Callable[[int, int, MemoryMap], Iterable[Match]]
    describe: Callable[[Any, Sequence[Match], MemoryMap], Violation]


class MapCheck(NamedTuple):
    """A check that needs no struct page."""

    check: Callable[[MemoryMap], Iterable[Violation]]


class TallyCheck(NamedTuple):
    """
    A check of counts over all chunks. They mean nothing where the kernel runs meanwhile.

    :ivar tally: Makes a counter for one walk.
    """

    tally: Callable[[MemoryMap], Tally]


class ProcCheck(NamedTuple):
    """A check of the running kernel's memory map against its files in ``/proc``. It takes no part in walks."""

    check: Callable[[MemoryMap, ProcFiles], Iterable[Violation]]


Check = Union[PageCheck, KeyCheck, MapCheck, TallyCheck, ProcCheck]


class Rule(NamedTuple):
    """
    A rule of the catalog.

    :ivar summary: One line.
    :ivar checks: What finds where it is broken.
    :ivar functions: Kernel functions that rely on what the rule checks.
    :ivar commits: Known commits.
    :ivar about: What its findings are about: ``PAGES``, ``ZONE`` or ``TARGET`` (:mod:`mminspect.findings`).
    :ivar explains: How well a finding explains a crash, compared with others: the smaller the better. ``None`` if it
        says nothing of any page's struct page.
    :ivar left_behind: Where the rule is about lists and counts of free pages: which of its problems show in a whole
        zone if another zone took pages of it; ``None`` for other rules.
    :ivar per_cpu: Whether it needs the per-CPU lists, which take time to follow, or those of unaccepted memory. Not
        read where the kernel runs.
    :ivar device: Whether it needs the struct pages of device memory. Not read where the kernel runs.
    :ivar lru: Whether it needs the LRU lists. Not read where the kernel runs.
    :ivar on_request: Whether it is applied only where it is selected by name, since it takes long.
    :ivar needs: Parts of a kernel that must be known (:mod:`mminspect.memorymap.layout`).
    :ivar id: Name in reports and on the command line: that of the file. :mod:`mminspect.rules.registry` fills it in.
    :ivar documentation: The file's docstring, filled in likewise.
    """

    summary: str
    checks: tuple[Check, ...]
    functions: tuple[str, ...] = ()
    commits: tuple[Commit, ...] = ()
    about: str = PAGES
    explains: int | None = 5
    left_behind: tuple[str, ...] | None = None
    per_cpu: bool = False
    device: bool = False
    lru: bool = False
    on_request: bool = False
    needs: tuple[str, ...] = ()
    id: str = ""
    documentation: str = ""

    def finding(self, violation: Violation, memory: MemoryMap, match: Match | None = None) -> Finding:
        """
        Make a finding.

        :param match: What the violation is said of, if it is pages.
        """
        severity, message, detail, of, pages, named, wrong, judged_by = violation
        node: int | None = None
        zone: Zone | None = None
        if isinstance(of, Zone):
            node, zone = of.node, of
        elif isinstance(of, Node):
            node = of.nid
        if pages is None and match is not None:
            pages = match[:2]
        elif pages is None:
            assert isinstance(of, (Zone, Node))
            pages = of.start_pfn, of.end_pfn
        start, end = pages
        if of is None and match is not None and match.link is not None:
            node, index = memory.layout.node_zone(match.link)
            zone = memory.zone(node, index)
        elif of is None:
            zone = next(iter(memory.zones_spanning(start, end)), None)
            node = zone.node if zone is not None else None
        name = zone.name if zone is not None else None
        subject = (self.about, named, wrong, judged_by)
        return Finding(self.id, severity, start, end, node, name, message, detail, *subject)

    def findings(self, violations: Iterable[Violation], memory: MemoryMap) -> Iterator[Finding]:
        """Make findings of what isn't said of a match."""
        return (self.finding(violation, memory) for violation in violations)


def applicable(rules: Iterable[Rule], memory: MemoryMap) -> list[Rule]:
    """Put a note in the place of the checks of each rule that needs what isn't known of the kernel."""
    result = []
    for rule in rules:
        why = memory.layout.why_unknown(*rule.needs)
        if why is not None:
            rule = rule._replace(
                checks=(MapCheck(partial(_refusal, why)),), about=TARGET, per_cpu=False, device=False, lru=False
            )
        result.append(rule)
    return result


def _refusal(why: str, memory: MemoryMap) -> Iterator[Violation]:
    message = f"this rule doesn't know kernels like {memory.layout.release} and judged nothing: {why}"
    yield Violation(NOTE, message, {}, of=memory, pages=(0, 0))


def counted(number: int, name: str) -> str:
    """Put a number of things, one at least, into words."""
    return f"{number} {name}{'s' if number > 1 else ''}"
