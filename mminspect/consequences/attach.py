# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Add consequences to findings.

Each finding gets the consequences of one page: the first that is wrong in it. Its pageblock's first and last entry are
read again. Findings of one rule that agree in every input of the model are evaluated once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

from drgn import FaultError

from mminspect.consequences.block import Block, read_block
from mminspect.consequences.causes import Causes
from mminspect.consequences.guards import Guards, read_guards
from mminspect.consequences.identity import NOTHING, finding_id, signature, state_of
from mminspect.consequences.model import consequences
from mminspect.consequences.place import REFUSES, SAFE, Outcome, Place, fatal, stopped, walked_zones
from mminspect.findings import BLOCK, ERROR, NOTE, TARGET, WARNING, Finding
from mminspect.kernel.kernel import Kernel
from mminspect.layout.sections import SUBSECTION_SHIFT, subsection
from mminspect.memmap.chunk import INITIALIZED, OFFLINE, UNREADABLE_REASONS, Chunk
from mminspect.memmap.page import Page, page_of
from mminspect.memorymap.layout import CONTIGUOUS, PAGEBLOCK_BITS
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.zones import Zone
from mminspect.rules.quirks import known_quirk

# Findings of one rule that get all consequences with their reasons. The others get those that do harm, by name.
MAX_PER_RULE = 1000
# Adjacent entries that are read at once, and how many such windows are kept.
WINDOW = 512
MAX_WINDOWS = 128
# Cases of which the outcomes are kept.
MAX_CASES = 4096
# Pageblocks that are kept as a whole.
MAX_BLOCKS = 16


class Brief(NamedTuple):
    """
    What the kernel would do with a page, without the reasons.

    :ivar harm: Function and outcome, of those that are neither safe nor refuse the block.
    :ivar deadly: The one that makes a finding an error, by :func:`mminspect.consequences.place.fatal`; likewise
        ``deadly_alone``, where that the page is taken as one of another zone doesn't count.
    :ivar stopped: The checks at run time that keep walkers off a page of another zone.
    :ivar outside: Whether the zone that the page links to doesn't span it.
    :ivar state: What a signature has of the page.
    """

    harm: list[dict[str, Any]]
    deadly: Outcome | None
    deadly_alone: Outcome | None
    stopped: tuple[Outcome, ...]
    outside: bool
    state: str


class Outcomes:
    """
    Says what the kernel would do with a page.

    :ivar guards: What of the kernel decides that.
    :ivar memory: The kernel's memory map.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.guards: Guards = read_guards(
            kernel.target.vmcoreinfo.release, kernel.target.has_function, kernel.has_member
        )
        self._kernel = kernel
        self.memory = kernel.memory
        self._prog = kernel.prog
        self._memmap = kernel.memmap
        self._identify = kernel.identify
        self._windows: dict[tuple[int, int], Chunk] = {}
        self._around: dict[tuple[int, int], tuple[Page, Page, Page] | None] = {}
        self._blocks: dict[int, Block] = {}
        self._cases: dict[Hashable, Brief] = {}
        self._subsections: dict[int, bool | None] = {}
        self._last: Chunk | None = None
        # The pageblock of the last page in brief, and what was said of its pages.
        self._block = -1
        self._in_block: dict[Hashable, Brief | None] | None = None

    def _window(self, pfn: int) -> Chunk | None:
        """Read the entries around a pfn. ``None`` if it isn't online."""
        last = self._last
        # The windows have online pages only.
        if last is not None and last.start_pfn <= pfn < last.end_pfn:
            return last
        section = self.memory.section(pfn)
        if section is None:
            return None
        low, high = next(r for r in section.ranges if r[0] <= pfn < r[1])
        start, end = max(low, pfn & -WINDOW), min(high, (pfn & -WINDOW) + WINDOW)
        chunk = self._windows.get((start, end))
        if chunk is None:
            if len(self._windows) >= MAX_WINDOWS:
                del self._windows[next(iter(self._windows))]
            chunk = self._windows[start, end] = self._memmap.chunk(start, end, section)
        self._last = chunk
        return chunk

    def page(self, pfn: int) -> Page | None:
        """Decode the entry of a pfn. ``None`` if the target doesn't hold it."""
        chunk = self._window(pfn)
        if chunk is None:
            return Page(pfn, 0, OFFLINE)
        return page_of(chunk, pfn)

    def block(self, pfn: int) -> Block:
        """Read the pageblock of an online pfn."""
        nr_pages = self.memory.layout.pageblock_nr_pages
        start = pfn & -nr_pages
        if start not in self._blocks:
            if len(self._blocks) >= MAX_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            section = self.memory.section(pfn)
            assert section is not None
            parts = ((max(low, start), min(high, start + nr_pages)) for low, high in section.ranges)
            chunks = [self._memmap.chunk(low, high, section) for low, high in parts if low < high]
            self._blocks[start] = read_block(self.memory, start, chunks, self._kernel.ram)
        return self._blocks[start]

    def places(self, pfn: int) -> list[Place]:
        """
        Find out what lies around a page, as each zone that spans it meets it.

        :return: One if no zone does. Empty if the target doesn't hold it.
        """
        page = self.page(pfn)
        if page is None or self.memory.layout.why_unknown(PAGEBLOCK_BITS, CONTIGUOUS):
            return []
        zones: list[Zone | None] = [*walked_zones(self.memory, page)]
        found = [self._place(page, zone) for zone in zones or [None]]
        return [] if None in found else [place for place in found if place is not None]

    def _place(self, page: Page, zone: Zone | None) -> Place | None:
        pfn = page.pfn
        nr_pages = self.memory.layout.pageblock_nr_pages
        start = pfn & -nr_pages
        first, last = start, start + nr_pages - 1
        if zone is not None:
            first, last = max(first, zone.start_pfn), min(last, zone.end_pfn - 1)
        around = self._pages_around(start, first, last)
        if around is None:
            return None
        section = self.memory.section(pfn)
        place = Place(self.memory, self.guards, page, zone, *around, section, self._in_subsection(pfn))
        if not place.is_foreign or zone is None:
            return place
        block = self.block(pfn)
        free, doubt = bool(block.free[pfn - start]), self._doubt(page)
        return place._replace(can_be_free=free, doubt=doubt, enters=block.enters(zone, pfn, self.guards))

    def _doubt(self, page: Page) -> str:
        if not page.reserved:
            return ""
        if self._kernel.ram is None:
            return "it is PG_reserved; whether it is System RAM can't be told here"
        return "it is PG_reserved, but System RAM"

    def _in_subsection(self, pfn: int) -> bool | None:
        """Get a pfn's bit in ``subsection_map`` where pfn_to_online_page() asks for it and pfn_valid() doesn't."""
        if not self.guards.checks_subsections:
            return None
        nr = pfn * self.memory.layout.page_size >> SUBSECTION_SHIFT
        if nr not in self._subsections:
            if len(self._subsections) >= MAX_CASES:
                self._subsections.clear()
            section = self.memory.section(pfn)
            is_early = section is not None and "SECTION_IS_EARLY" in section.flags
            self._subsections[nr] = subsection(self._prog, pfn) if is_early else None
        return self._subsections[nr]

    def _pages_around(self, start: int, first: int, last: int) -> tuple[Page, Page, Page] | None:
        """Decode the first and the last page of a pageblock's part in a zone, and the block's first."""
        if (first, last) not in self._around:
            if len(self._around) >= MAX_WINDOWS:
                del self._around[next(iter(self._around))]
            pages = [entry for entry in map(self.page, (first, last, start)) if entry is not None]
            self._around[first, last] = (pages[0], pages[1], pages[2]) if len(pages) == 3 else None
        return self._around[first, last]

    def brief(self, pfn: int) -> Brief | None:
        """Model the kernel's functions for a page; once for all pages that are alike in what decides."""
        try:
            alike = self._alike(pfn)
            if alike is None:
                return None
            block = pfn >> self.memory.layout.pageblock_order
            if block != self._block:
                self._block, self._in_block = block, {} if self._is_plain(block) else None
            if self._in_block is None:
                return self._brief(pfn)
            if alike not in self._in_block:
                self._in_block[alike] = self._brief(pfn)
            return self._in_block[alike]
        except FaultError:
            return None

    def _alike(self, pfn: int) -> Hashable | None:
        """
        Get what of a page decides on what is done with it, in a block that no zone begins or ends in.

        :return: ``None`` if the target doesn't hold it.
        """
        chunk = self._window(pfn)
        if chunk is None:
            return OFFLINE
        index = pfn - chunk.start_pfn
        state = int(chunk.state[index])
        if state in UNREADABLE_REASONS:
            return None
        member, ram = chunk.layout.page, self._kernel.ram
        flags = int(chunk.flags[index])
        in_ram = state != INITIALIZED or not flags & member.reserved or ram is None
        in_ram = in_ram or any(low <= pfn < high for low, high in ram or ())
        assert chunk.words is not None
        mapcount = int(chunk.words[index, member.mapcount_offset // chunk.words.itemsize])
        kept = flags & (member.reserved | member.lru)
        return int(chunk.link[index]), state, kept, mapcount, in_ram, self._in_subsection(pfn)

    def _is_plain(self, block: int) -> bool:
        """Tell whether no zone begins or ends inside a pageblock: then only the page itself matters."""
        start = block << self.memory.layout.pageblock_order
        end = start + self.memory.layout.pageblock_nr_pages
        edges = (edge for zone in self.memory.populated_zones for edge in (zone.start_pfn, zone.end_pfn))
        return not any(start < edge < end for edge in edges)

    def _brief(self, pfn: int) -> Brief | None:
        places = self.places(pfn)
        if not places:
            return None
        case = tuple(map(self._case, places))
        if case not in self._cases:
            if len(self._cases) >= MAX_CASES:
                self._cases.clear()
            outcomes = consequences(*places)
            harm = [item._replace(address=None).as_dict() for item in outcomes if item.outcome not in (SAFE, REFUSES)]
            for item in harm:
                del item["why"]
            page = places[0].page
            self._cases[case] = Brief(
                harm,
                fatal(outcomes, self.guards),
                fatal(outcomes, self.guards, foreign=False),
                stopped(outcomes),
                self.is_outside(page),
                state_of(page),
            )
        return self._cases[case]

    def _case(self, place: Place) -> Hashable:
        """Get all that decides on the outcomes of a page, their reasons and addresses aside."""
        layout = self.memory.layout
        page, first, last, start = place.page, place.first, place.last, place.start
        block: Hashable = page.pfn >> layout.pageblock_order
        if not layout.flatmem:
            # The index into a section's bitmap always fits.
            end = start.pfn + layout.pageblock_nr_pages - 1
            section = place.section
            block = (
                place.outside(start),
                place.outside(first),
                place.zone is not None and (place.zone.spans(start.pfn), place.zone.spans(end)),
                section is not None and bool(section.bitmap),
            )
        return (
            *(page.link, page.state, page.reserved, page.lru, page.buddy, place.outside(page)),
            *(first.link, first.state, last.link, last.state, start.link, start.state),
            *(place.zone_link, place.in_subsection, place.can_be_free, place.enters),
            place.section is not None and place.section.is_absent(first.pfn),
            block,
        )

    def of(self, pfn: int) -> list[Outcome]:
        """Model the kernel's functions for a page. Empty if the target doesn't hold it."""
        try:
            places = self.places(pfn)
            return [self._with_object(item) for item in consequences(*places)] if places else []
        except FaultError:
            return []

    def _with_object(self, item: Outcome) -> Outcome:
        if item.address is None:
            return item
        there = self._identify(item.address).get("text", "unknown memory")
        return item._replace(why=f"{item.why}, {there}")

    def strangers(self, finding: Finding) -> list[int]:
        """Find the pages of a pageblock that zones other than their own span, one for each such zone."""
        pfn = self._first_online(finding)
        if self.memory.section(pfn) is None:
            return []
        try:
            return list(dict.fromkeys(self.block(pfn).strangers(self.guards)))
        except FaultError:
            return []

    def readable_page(self, pfn: int) -> Page | None:
        """Decode the entry of a pfn. ``None`` if the target doesn't hold it, or if it went away meanwhile."""
        try:
            return self.page(pfn)
        except FaultError:
            return None

    def is_outside(self, page: Page | None) -> bool:
        """Tell whether the zone that a page links to doesn't span it."""
        if page is None:
            return False
        zone = self.memory.zone(*self.memory.layout.node_zone(page.link))
        return zone is None or not zone.spans(page.pfn)

    def wrong_page(self, finding: Finding) -> int:
        """Choose the page by which a finding is judged."""
        return self._first_online(finding) if finding.judged_by is None else finding.judged_by

    def _first_online(self, finding: Finding) -> int:
        pfn, last = finding.start_pfn, self._last
        if last is not None and last.start_pfn <= pfn < last.end_pfn:
            return pfn
        end = min(finding.end_pfn, pfn + self.memory.layout.pageblock_nr_pages)
        while self.memory.section(pfn) is None and pfn < end:
            pfn += 1
        return pfn


class Judgment(NamedTuple):
    """
    What the kernel would do with the pages of a finding.

    :ivar pfn: The page that was judged, ``None`` if none was.
    :ivar state: What a signature has of it.
    :ivar more: What is added to ``detail``.
    :ivar deadly: The outcome that makes it an error.
    :ivar stopped: The checks at run time that keep walkers off.
    :ivar explained: Whether the reasons are told.
    """

    pfn: int | None
    state: str
    more: dict[str, Any]
    deadly: Outcome | None
    stopped: tuple[Outcome, ...]
    explained: bool


NO_JUDGMENT = Judgment(None, NOTHING, {}, None, (), False)


def attach(findings: Iterable[Finding], outcomes: Outcomes) -> Iterator[Finding]:
    """
    Add ``detail.consequences`` to findings, and raise those that the kernel would not survive.

    After :data:`MAX_PER_RULE` findings of a rule, they are abridged. A finding of a zone as a whole has none.

    :return: Iterator of the findings. Those that others can explain come last.
    """
    done: Counter[str] = Counter()
    known: dict[int, list[Outcome]] = {}

    def judge(finding: Finding, pfn: int) -> Judgment:
        if done[finding.rule] > MAX_PER_RULE:
            brief = outcomes.brief(pfn)
            brief = brief or Brief([], None, None, (), False, NOTHING)
            deadly = brief.deadly if finding.about == BLOCK or brief.outside else brief.deadly_alone
            more = {"consequences": brief.harm, "consequences_abridged": True}
            return Judgment(pfn, brief.state, more, deadly, brief.stopped, False)
        if pfn not in known:
            known[pfn] = outcomes.of(pfn)
        found = known[pfn]
        page = outcomes.readable_page(pfn)
        foreign = finding.about == BLOCK or outcomes.is_outside(page)
        more = {"consequences": [item.as_dict() for item in found]}
        return Judgment(pfn, state_of(page), more, fatal(found, outcomes.guards, foreign), stopped(found), True)

    causes = Causes(outcomes.memory)
    waiting: list[Finding] = []
    for finding in findings:
        judgment, has_strangers = NO_JUDGMENT, False
        if finding.of_zone:
            judgment = Judgment(None, NOTHING, {"consequences": []}, None, (), False)
        elif finding.about != TARGET:
            done[finding.rule] += 1
            # Nothing makes an error worse.
            strangers = outcomes.strangers(finding) if finding.about == BLOCK and finding.severity != ERROR else []
            has_strangers = bool(strangers)
            judgments = (judge(finding, pfn) for pfn in (*strangers, outcomes.wrong_page(finding)))
            judgment = next(judgments)
            if not judgment.deadly:
                judgment = next((other for other in judgments if other.deadly), judgment)
        judged = _judged(finding, judgment, has_strangers, outcomes.memory)
        if has_strangers and judged.severity == ERROR:
            causes.add(judged)
        if causes.wants(judged):
            waiting.append(judged)
        else:
            yield _with_quirk(judged, outcomes.memory)
    for judged in waiting:
        yield _with_quirk(causes.explain(judged), outcomes.memory)


def _judged(finding: Finding, judgment: Judgment, has_strangers: bool, memory: MemoryMap) -> Finding:
    """
    Raise a finding by what the kernel would do, and give it its ID and signature.

    A note is legal, and what is wrong with its page besides has a finding of its own; but for a pageblock, where it is
    the zones that span it which decide.
    """
    severity, message, more = finding.severity, finding.message, dict(judgment.more)
    deadly, checks = judgment.deadly, judgment.stopped
    deciding = None
    if deadly is not None and (severity == WARNING or has_strangers):
        more["severity_by_rule"], severity, deciding = severity, ERROR, deadly
        message = f"{message}; but {deadly.function}() {deadly.outcome}"
        message += f" at pfn {judgment.pfn:#x}" if has_strangers else ""
        message += f": {deadly.why}" if judgment.explained else ""
    elif has_strangers and checks and severity == NOTE:
        more["severity_by_rule"], severity, deciding = severity, WARNING, checks[0]
        names = " and ".join(f"{item.function}()" for item in checks)
        message = f"{message}; a zone spans pages of another, and {names} keep its walkers off"
        message += f": {'; '.join(item.why for item in checks)}" if judgment.explained else ""
    return finding.changed(
        severity=severity,
        message=message,
        detail={**finding.detail, **more},
        id=finding_id(finding),
        signature=signature(finding, severity, memory, judgment.state, deciding),
    )


def _with_quirk(finding: Finding, memory: MemoryMap) -> Finding:
    quirk = known_quirk(finding, memory)
    return finding if quirk is None else finding.changed(known=quirk)
