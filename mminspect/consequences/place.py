# SPDX-License-Identifier: LGPL-2.1-or-later
"""A page as a zone's walkers meet it, and what a kernel function would do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mminspect.consequences.guards import Guards
from mminspect.memmap.chunk import INITIALIZED
from mminspect.memmap.page import Page
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import Zone

SAFE = "safe"
REFUSES = "refuses"
READS_WRONG = "reads wrong"
WRITES_OUTSIDE = "writes outside"
FAULTS = "faults"
BUG = "BUG with CONFIG_DEBUG_VM"
OUTCOMES = (SAFE, REFUSES, READS_WRONG, BUG, WRITES_OUTSIDE, FAULTS)

# What makes a finding an error, whatever its rule says. BUG is added where the kernel has CONFIG_DEBUG_VM.
FATAL = (WRITES_OUTSIDE, FAULTS)

# What keeps a zone's walker off a page of another zone.
RUN_TIME = "run-time"
VM_BUG_ON = "VM_BUG_ON_PAGE"
NO_CHECK = "none"

STAYS_IN_ZONE = {
    "hash": "6e2b7044c199",
    "title": "mm, compaction: make fast_isolate_freepages() stay within zone",
}


class Outcome(NamedTuple):
    """
    What one kernel function would do.

    :ivar function: Its name.
    :ivar outcome: One of :data:`OUTCOMES`.
    :ivar why: The guard that makes it safe, or what goes wrong.
    :ivar address: The address that it would write to, where that is outside of a bitmap.
    :ivar commit: ``hash`` and ``title`` of the commit that decides, where the kernel itself doesn't tell whether it
        has it.
    :ivar zone: The zone whose walk it is, where several zones span the page.
    :ivar guard: What keeps the function from a page of another zone than the walked one: ``run-time``,
        ``VM_BUG_ON_PAGE`` or ``none``; ``None`` where it is no such page.
    """

    function: str
    outcome: str
    why: str
    address: int | None = None
    commit: dict[str, str] | None = None
    zone: str | None = None
    guard: str | None = None

    @property
    def takes(self) -> bool:
        """Whether the function takes, moves or frees a page of another zone, and nothing at run time stops it."""
        return self.outcome not in (SAFE, REFUSES) and self.guard in (VM_BUG_ON, NO_CHECK)

    def as_dict(self) -> dict[str, Any]:
        """Get plain data without what isn't known."""
        result: dict[str, Any] = {"function": self.function, "outcome": self.outcome, "why": self.why}
        if self.address is not None:
            result["address"] = self.address
        if self.commit is not None:
            result["commit"] = dict(self.commit)
        if self.zone is not None:
            result["zone"] = self.zone
        if self.guard is not None:
            result["guard"] = self.guard
        return result


class Place(NamedTuple):
    """
    A page and what lies around it, as the walkers of one zone meet it.

    :ivar zone: The zone whose walkers come to the page, ``None`` if no zone spans it.
    :ivar first: First page of its pageblock, clipped to the zone; likewise ``last``.
    :ivar start: First page of its pageblock, not clipped.
    :ivar section: The section of the page, ``None`` where it isn't online.
    :ivar in_subsection: The page's bit in ``subsection_map``, ``None`` where nothing depends on it.
    :ivar can_be_free: Whether the page can ever be in the allocator.
    :ivar doubt: Why that isn't certain, as part of a sentence; empty if it is.
    :ivar enters: Whether the zone can have a free page in the pageblock from which move_freepages_block() would get to
        this one.
    """

    memory: MemoryMap
    guards: Guards
    page: Page
    zone: Zone | None
    first: Page
    last: Page
    start: Page
    section: Section | None
    in_subsection: bool | None = None
    can_be_free: bool = False
    doubt: str = ""
    enters: bool = True

    def outside(self, page: Page) -> bool:
        """Tell whether the zone that a page links to doesn't span it."""
        zone = self.memory.zone(*self.memory.layout.node_zone(page.link))
        return zone is None or not zone.spans(page.pfn)

    @property
    def zone_link(self) -> int | None:
        """The link of the zone that is walked."""
        return None if self.zone is None else self.memory.layout.link(self.zone.node, self.zone.index)

    @property
    def is_foreign(self) -> bool:
        """Whether the page is initialized and of another zone than the one that is walked."""
        return self.zone is not None and self.page.state == INITIALIZED and self.page.link != self.zone_link


def with_walkers(zones: list[Zone]) -> list[Zone]:
    """Leave out zones of device memory where there are others: nobody compacts them or allocates from them."""
    return [zone for zone in zones if zone.name != "Device"] or zones


def walked_zones(memory: MemoryMap, page: Page) -> list[Zone]:
    """
    Get the zones whose walkers come to a page: all that span it.

    A walker goes by the span of its zone. The zone that the page links to comes first if it is one of them.
    """
    spanning = with_walkers(memory.zones_spanning(page.pfn, page.pfn + 1))
    own = memory.zone(*memory.layout.node_zone(page.link)) if page.state == INITIALIZED else None
    return sorted(spanning, key=lambda zone: zone is not own)


def fatal(outcomes: Sequence[Outcome], guards: Guards, foreign: bool = True) -> Outcome | None:
    """
    Get the first outcome that makes a finding an error.

    The functions that take one page and its pfn count only where a walker hands them that page.

    :param foreign: Whether it counts that the page is taken as one of another zone. If its own zone spans it, that is
        no fault of the page, but of its pageblock.
    """
    bad = (*FATAL, BUG) if guards.debug_vm else FATAL
    direct = ("page_zone", "get_pfnblock_flags_mask", "set_pfnblock_flags_mask")
    walked = (item for item in outcomes if item.function not in direct)
    return next((item for item in walked if item.outcome in bad or (foreign and item.takes)), None)


def stopped(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Get the checks at run time that keep walkers off a page of another zone, one for each function that asks."""
    asked = ("__pageblock_pfn_to_page", "move_freepages_block")
    refusals = (item for item in outcomes if item.function in asked and item.outcome == REFUSES)
    found = {item.function: item for item in refusals if item.guard == RUN_TIME}
    return tuple(found.values())
