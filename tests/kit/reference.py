# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The reference: what the contract says, page by page, in plain Python.

It is slow and obvious. Each function that has a kernel function's name follows that function's C line by line. Nothing
here comes from mminspect's layout, memmap or rules. ``reference_drgn.py`` reads a kernel through drgn, one
object per page; the random tests make worlds by hand. :func:`findings` judges both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple

READABLE = ("", "zeroed", "poisoned", "stale", "deferred")
JUDGED = ("", "zeroed", "poisoned", "stale")
RANK = {"note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Machine:
    """What is fixed for a kernel. ``node`` and ``zone`` are (shift, width) in ``page->flags``."""

    pageblock_order: int
    bits_per_block: int
    word_bits: int
    flatmem: bool
    max_nr_zones: int
    node: tuple[int, int]
    zone: tuple[int, int]
    pg_reserved: int
    section_shift: int = 15

    @property
    def nr_pages(self) -> int:
        """``pageblock_nr_pages``."""
        return 1 << self.pageblock_order


class Zone(NamedTuple):
    """``struct zone``."""

    node: int
    id: int
    zone_start_pfn: int
    spanned_pages: int
    contiguous: bool = False
    pageblock_flags: int = 0


class Node(NamedTuple):
    """``struct pglist_data``."""

    start: int
    spanned: int
    first_deferred_pfn: int


class Page(NamedTuple):
    """An online ``struct page``; ``state`` is "" if it is initialized, else why it isn't or can't be read."""

    pfn: int
    flags: int
    state: str = ""


@dataclass
class World:
    """A kernel's memory map."""

    machine: Machine
    zones: dict[tuple[int, int], Zone]
    nodes: dict[int, Node]
    pages: dict[int, Page] = field(default_factory=dict)
    sections_without_bitmap: tuple[int, ...] = ()
    phantoms: dict[tuple[int, int], Zone] = field(default_factory=dict)


class Found(NamedTuple):
    """A finding, with what the contract says of its detail."""

    rule: str
    severity: str
    start: int
    end: int
    detail: Any


# What the fixtures' kernels were built with: Debian's configurations and the kernels' headers.
MACHINES = {
    "i386-5.10-hole": Machine(9, 4, 32, True, 4, (0, 0), (30, 2), 12),
    "amd64-5.10-hotplug": Machine(9, 4, 64, False, 5, (54, 10), (51, 3), 12),
    "amd64-6.1-healthy": Machine(9, 4, 64, False, 5, (54, 10), (51, 3), 12),
    "amd64-6.1-lru": Machine(9, 4, 64, False, 5, (54, 10), (51, 3), 12),
    "amd64-6.12-400m": Machine(9, 4, 64, False, 5, (54, 10), (51, 3), 13),
    "amd64-6.12-low-ram": Machine(9, 4, 64, False, 5, (54, 10), (51, 3), 13),
    "amd64-7.2-numa": Machine(9, 8, 64, False, 5, (54, 10), (51, 3), 13),
    "arm64-6.12": Machine(9, 4, 64, False, 5, (60, 4), (57, 3), 13),
    "s390x-6.12": Machine(8, 4, 64, False, 3, (0, 0), (62, 2), 13, 16),
}


# include/linux/mm.h


def page_zonenum(machine: Machine, flags: int) -> int:
    """``(page->flags >> ZONES_PGSHIFT) & ZONES_MASK``."""
    shift, width = machine.zone
    return (flags >> shift) & ((1 << width) - 1)


def page_to_nid(machine: Machine, flags: int) -> int:
    """``(page->flags >> NODES_PGSHIFT) & NODES_MASK``."""
    shift, width = machine.node
    return (flags >> shift) & ((1 << width) - 1)


def link(world: World, page: Page) -> tuple[int, int]:
    """The (node, zone ID) that a page links to."""
    return page_to_nid(world.machine, page.flags), page_zonenum(world.machine, page.flags)


def page_zone(world: World, page: Page) -> Zone | None:
    """``&NODE_DATA(page_to_nid(page))->node_zones[page_zonenum(page)]``, if there is such a zone."""
    return world.zones.get(link(world, page))


def zone_spans_pfn(zone: Zone, pfn: int) -> bool:
    """``zone->zone_start_pfn <= pfn && pfn < zone_end_pfn(zone)``."""
    return zone.zone_start_pfn <= pfn and pfn < zone.zone_start_pfn + zone.spanned_pages


def PageReserved(world: World, page: Page) -> bool:
    """``test_bit(PG_reserved, &page->flags)``."""
    return bool(page.flags >> world.machine.pg_reserved & 1)


def spanned(world: World, pfn: int) -> bool:
    """Whether any zone of any node spans a pfn."""
    return any(zone_spans_pfn(zone, pfn) for zone in world.zones.values())


# mm/page_alloc.c, mm/mm_init.c


def usemap_size(machine: Machine, zone_start_pfn: int, zonesize: int) -> int:
    """
    ``usemap_size()``, in bits::

        zonesize += zone_start_pfn & (pageblock_nr_pages-1);
        usemapsize = roundup(zonesize, pageblock_nr_pages);
        usemapsize = usemapsize >> pageblock_order;
        usemapsize *= NR_PAGEBLOCK_BITS;
        usemapsize = roundup(usemapsize, 8 * sizeof(unsigned long));
    """

    def roundup(x: int, y: int) -> int:
        return ((x + (y - 1)) // y) * y

    zonesize += zone_start_pfn & (machine.nr_pages - 1)
    usemapsize = roundup(zonesize, machine.nr_pages)
    usemapsize = usemapsize >> machine.pageblock_order
    usemapsize *= machine.bits_per_block
    return roundup(usemapsize, machine.word_bits)


def pfn_to_bitidx(machine: Machine, zone_start_pfn: int, pfn: int) -> int:
    """
    ``pfn_to_bitidx()`` without SPARSEMEM, as its callers' ``unsigned long``::

        pfn = pfn - round_down(page_zone(page)->zone_start_pfn, pageblock_nr_pages);
        return (pfn >> pageblock_order) * NR_PAGEBLOCK_BITS;      (an int)
    """
    wrap = (1 << machine.word_bits) - 1
    pfn = (pfn - (zone_start_pfn & ~(machine.nr_pages - 1))) & wrap
    result = ((pfn >> machine.pageblock_order) * machine.bits_per_block) & 0xFFFFFFFF
    if result & 0x80000000:
        result -= 0x100000000
    return result & wrap


def __pageblock_pfn_to_page(world: World, start_pfn: int, end_pfn: int, zone: Zone) -> bool | None:
    """
    ``__pageblock_pfn_to_page()``: whether it would return a page. ``None`` if this target doesn't tell.

    ``pfn_to_online_page()`` is in :attr:`World.pages`.
    """
    end_pfn -= 1
    start_page, end_page = world.pages.get(start_pfn), world.pages.get(end_pfn)
    if start_page is None or end_page is None:
        return False
    if start_page.state not in JUDGED or end_page.state not in JUDGED:
        return None
    if page_zone(world, start_page) != zone:
        return False
    return link(world, start_page) == link(world, end_page)


def set_zone_contiguous(world: World, zone: Zone) -> list[tuple[int, int]]:
    """``set_zone_contiguous()``, but all the refused blocks, not just the first."""
    refused = []
    zone_end_pfn = zone.zone_start_pfn + zone.spanned_pages
    block_start_pfn = zone.zone_start_pfn
    block_end_pfn = (block_start_pfn // world.machine.nr_pages + 1) * world.machine.nr_pages
    while block_start_pfn < zone_end_pfn:
        block_end_pfn = min(block_end_pfn, zone_end_pfn)
        if __pageblock_pfn_to_page(world, block_start_pfn, block_end_pfn, zone) is False:
            refused.append((block_start_pfn, block_end_pfn))
        block_start_pfn = block_end_pfn
        block_end_pfn += world.machine.nr_pages
    return refused


# include/linux/page-flags.h


def PagePoisoned(machine: Machine, flags: int) -> bool:
    """``page->flags == PAGE_POISON_PATTERN``, which is ``-1l``."""
    return flags == (1 << machine.word_bits) - 1


def state(world: World, pfn: int, flags: int, refcount: Callable[[], int], all_zero: bool) -> str:
    """What an entry of the memmap that can be read is. ``refcount`` reads ``page->_refcount``."""
    machine = world.machine
    at = (page_to_nid(machine, flags), page_zonenum(machine, flags))
    zone = world.zones.get(at)
    for nid, node in world.nodes.items():
        waits = node.first_deferred_pfn <= pfn and node.start <= pfn < node.start + node.spanned
        if waits and not (zone is not None and zone.node == nid and zone_spans_pfn(zone, pfn)):
            return "deferred"
    if all_zero:
        return "zeroed"
    if PagePoisoned(machine, flags):
        return "poisoned"
    if zone is None and not 0 <= refcount() <= 1 << 24:
        return "stale"
    return ""


# The seven rules


def runs(world: World, key: Callable[[Page], Any]) -> Iterator[tuple[Any, list[Page]]]:
    """Longest runs of adjacent online pages whose key is equal and not ``None``."""
    current: list[Page] = []
    current_key: Any = None
    for pfn in sorted(world.pages):
        page = world.pages[pfn]
        this = key(page)
        if current and (this != current_key or current[-1].pfn + 1 != pfn):
            yield current_key, current
            current = []
        if this is not None:
            current.append(page)
            current_key = this
    if current:
        yield current_key, current


def mixed_zone(world: World) -> Iterator[Found]:
    """Pageblocks whose pages link to more than one (node, zone)."""
    order = world.machine.pageblock_order
    blocks: dict[int, list[Page]] = {}
    for pfn in sorted(world.pages):
        if world.pages[pfn].state in JUDGED:
            blocks.setdefault(pfn >> order, []).append(world.pages[pfn])
    for block, pages in blocks.items():
        links = [link(world, page) for page in pages]
        if len(set(links)) == 1:
            continue
        severity = max((grade(world, page) for page in pages), key=RANK.__getitem__)
        parts: list[list[int]] = []
        for page, (nid, zid) in zip(pages, links):
            if parts and parts[-1][1:] == [page.pfn, nid, zid]:
                parts[-1][1] += 1
            else:
                parts.append([page.pfn, page.pfn + 1, nid, zid])
        yield Found("mixed-zone", severity, block << order, (block + 1) << order, (links[0] == links[-1], parts))


def grade(world: World, page: Page) -> str:
    """What it means to follow a page's link."""
    zone = page_zone(world, page)
    if zone is None:
        return "error"
    if page.state:
        return "error" if spanned(world, page.pfn) else "warning"
    if zone_spans_pfn(zone, page.pfn):
        return "note"
    if not PageReserved(world, page):
        return "error"
    if not spanned(world, page.pfn):
        return "note"
    return "error" if world.machine.flatmem else "warning"


def zone_span(world: World) -> Iterator[Found]:
    """Runs of pages that link to one zone that doesn't span them."""

    def key(page: Page) -> Any:
        zone = page_zone(world, page) if page.state in JUDGED else None
        return link(world, page) if zone is not None and not zone_spans_pfn(zone, page.pfn) else None

    for at, pages in runs(world, key):
        reserved = all(PageReserved(world, page) for page in pages)
        others = sorted(k for k, z in world.zones.items() if any(zone_spans_pfn(z, p.pfn) for p in pages))
        if not reserved:
            severity = "error"
        elif not others:
            severity = "note"
        else:
            severity = "error" if world.machine.flatmem else "warning"
        detail = (list(at), [list(other) for other in others], reserved)
        yield Found("zone-span", severity, pages[0].pfn, pages[-1].pfn + 1, detail)


def zone_id(world: World) -> Iterator[Found]:
    """Runs whose zone ID is out of the array, or whose node has no pgdat. Stale entries are one run."""

    def key(page: Page) -> Any:
        if page.state not in JUDGED or page_zone(world, page) is not None:
            return None
        return "stale" if page.state == "stale" else link(world, page)

    for _, pages in runs(world, key):
        yield Found("zone-id", "error", pages[0].pfn, pages[-1].pfn + 1, (link(world, pages[0]), pages[0].flags))


def uninitialized(world: World) -> Iterator[Found]:
    """Runs of entries that no initializer wrote."""
    for kind, pages in runs(world, lambda p: p.state if p.state and p.state in READABLE else None):
        if kind == "deferred":
            severity = "note"
        else:
            severity = "error" if any(spanned(world, page.pfn) for page in pages) else "warning"
        yield Found("uninitialized", severity, pages[0].pfn, pages[-1].pfn + 1, kind)


def unreadable(world: World) -> Iterator[Found]:
    """Runs whose struct pages the target doesn't hold."""
    for why, pages in runs(world, lambda p: p.state if p.state not in READABLE else None):
        yield Found("unreadable", "note", pages[0].pfn, pages[-1].pfn + 1, why)


def bitmap_bounds(world: World) -> Iterator[Found]:
    """Runs of pfns whose index is outside the bitmap, or whose bitmap is missing."""
    machine = world.machine

    def sparse_key(page: Page) -> Any:
        section = page.pfn >> machine.section_shift
        return section if page.state in JUDGED and section in world.sections_without_bitmap else None

    def flat_key(page: Page) -> Any:
        if page.state not in JUDGED:
            return None
        at = link(world, page)
        zone = world.zones.get(at) or world.phantoms.get(at)
        if zone is None:
            return None
        if not zone.pageblock_flags:
            return at, "missing", None
        index = pfn_to_bitidx(machine, zone.zone_start_pfn, page.pfn)
        limit = usemap_size(machine, zone.zone_start_pfn, zone.spanned_pages)
        return (at, "outside", limit) if index >= limit else None

    for key, pages in runs(world, flat_key if machine.flatmem else sparse_key):
        start, end = pages[0].pfn, pages[-1].pfn + 1
        if not machine.flatmem or key[1] == "missing":
            yield Found("bitmap-bounds", "error", start, end, "missing")
            continue
        zone = world.zones.get(key[0]) or world.phantoms[key[0]]
        first = pfn_to_bitidx(machine, zone.zone_start_pfn, start)
        last = pfn_to_bitidx(machine, zone.zone_start_pfn, end - 1)
        yield Found("bitmap-bounds", "error", start, end, (first, last, key[2]))


def contiguous(world: World) -> Iterator[Found]:
    """Zones that are marked contiguous over blocks that ``__pageblock_pfn_to_page()`` would refuse."""
    for zone in world.zones.values():
        refused = set_zone_contiguous(world, zone) if zone.contiguous else []
        if refused:
            end = zone.zone_start_pfn + zone.spanned_pages
            yield Found("contiguous", "error", zone.zone_start_pfn, end, [list(block) for block in refused])


RULES = (bitmap_bounds, contiguous, mixed_zone, uninitialized, unreadable, zone_id, zone_span)


# The rules that this reference knows.
RULE_IDS = ("bitmap-bounds", "contiguous", "mixed-zone", "uninitialized", "unreadable", "zone-id", "zone-span")


def findings(world: World) -> list[Found]:
    """Everything that is wrong, in the report's order."""
    found = [f for rule in RULES for f in rule(world)]
    return sorted(found, key=lambda f: (f.start, f.end, f.rule))


def from_report(finding: Any) -> Found:
    """Reduce a finding of mminspect to what the reference says."""
    detail = finding.detail
    reduced: Any = {
        "mixed-zone": lambda: (detail["hidden"], detail["runs"]),
        "zone-span": lambda: (detail["linked"], detail["spanned_by"], detail["reserved"]),
        "zone-id": lambda: ((detail["node"], detail["zone_id"]), detail["flags"]),
        "uninitialized": lambda: detail["kind"],
        "unreadable": lambda: detail["why"],
        "bitmap-bounds": lambda: (
            "missing" if detail["missing"] else (detail["index"], detail["last_index"], detail["limit"])
        ),
        "contiguous": lambda: detail["blocks"],
    }[finding.rule]()
    # The reference knows the rules only, not what the kernel would do.
    severity = detail.get("severity_by_rule", finding.severity)
    return Found(finding.rule, severity, finding.start_pfn, finding.end_pfn, reduced)
