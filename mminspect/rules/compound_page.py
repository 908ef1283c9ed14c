# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compound pages whose tails disagree with their head.

A compound page is a head (PG_head) and ``(1 << order) - 1`` tails, each of which has bit 0 of ``compound_head`` set
and leads to the head (``prep_compound_page()``). ``compound_head()`` is applied to nearly every page that kernel code
gets hold of, so a tail that leads elsewhere changes the reference count of a foreign page.

- ``order``: the head has an order that can't be.
- ``tail``: pages behind a head, within its order, that aren't its tails.
- ``orphan``: tails that no head of that order is before.
- ``zone``: tails that link to another zone than their head. Freed, they end in the wrong free list.

Legal and not reported: blocks that are allocated as a whole without being compound; huge pages whose struct pages are
shared to save memory (hugetlb vmemmap optimization), where many tails are one and the same memory, and the first entry
of each shared page may look like a head; since Linux 7.1 ``compound_info``, which holds a mask and no address.

A compound page larger than what is looked at at once (128 MiB with pages of 4 KiB) is judged piece by piece, by
whether its tails lead to a page that could be their head.

``detail`` has the ``problem``, the pfn of the ``head`` if there is one, and its ``order``.

Where the memmap is garbage, a pageblock has hundreds of these. From 33 of a kind on, one finding stands for all: it
tells of the first, and ``detail.pages`` lists all their ranges.

Errors. Where the head isn't referenced it may be in the making, or being freed; that is a warning.

Example: a dump of amd64 6.1 in which the third page of a slab was made a tail of another page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.findings import ERROR, WARNING
from mminspect.memmap.chunk import INITIALIZED, Chunk
from mminspect.memorymap.layout import COMPOUND_PAGES, TAILS, Layout
from mminspect.memorymap.map import MemoryMap
from mminspect.rules.base import Identify, Match, PageCheck, Rule, Violation, counted
from mminspect.rules.commits import commit

# The largest compound page of any kernel: 16 GiB huge pages of powerpc, of 4 KiB each.
MAX_COMPOUND_ORDER = 22

MESSAGES = {
    "order": "head with an order that can't be",
    "tail": "behind a head and not its tail",
    "orphan": "tail without a head",
    "zone": "tail in another zone than its head",
}

Indexes = npt.NDArray[np.int64]

# How often heads can claim each page, on average, before they are cut short. Where nothing is wrong it is once.
MAX_CLAIMS = 4
# An index that no page has.
NOWHERE = np.int64(1) << np.int64(62)


class Compound(NamedTuple):
    """
    The compound pages of a chunk, by index in it.

    :ivar tails: Tails, ascending.
    :ivar leads: The head that each tail leads to, negative if before the chunk, a very large one if to no
        place in this memmap.
    :ivar heads: Heads, ascending.
    :ivar orders: Of the heads.
    """

    tails: Indexes
    leads: Indexes
    heads: Indexes
    orders: Indexes


def compound_pages(chunk: Chunk, layout: Layout) -> Compound | None:
    """Find heads and tails."""
    page = layout.page
    if page.compound_head_offset is None or chunk.words is None:
        return None
    head_flag = chunk.flags.dtype.type(page.flag("head"))
    # Many chunks have no compound page at all.
    common = chunk.digest
    if not common.any_bits(page.compound_head_offset) & 1 and not common.any_bits(page.flags_offset) & int(head_flag):
        return None
    info = chunk.copied(page.compound_head_offset)
    tails = np.flatnonzero(info & info.dtype.type(1))
    tails = tails[chunk.state[tails] == INITIALIZED]
    heads = np.flatnonzero(chunk.flags & head_flag)
    heads = heads[(chunk.state[heads] == INITIALIZED) & (info[heads] & info.dtype.type(1) == 0)]
    if not len(tails) and not len(heads):
        return None
    values = info[tails].astype(np.uint64) & ~np.uint64(1)
    address = chunk.addresses(tails)
    if page.compound_mask:
        values &= address
    distance = (address - values).view(np.int64)
    steps = distance // layout.page.size
    nowhere = (steps <= 0) | (steps * layout.page.size != distance)
    leads = np.where(nowhere, NOWHERE, tails - steps)
    heads = heads[~_copies(chunk, layout, heads, tails, leads, None)]
    # The order is in the second page of a compound page.
    orders = np.zeros(len(heads), np.int64)
    second = heads + 1 < len(chunk.link)
    orders[second] = chunk.bytes_at(page.order_offset)[heads[second] + 1]
    return Compound(tails, leads, heads, orders)


def _copies(
    chunk: Chunk, layout: Layout, places: Indexes, tails: Indexes, leads: Indexes, real: Indexes | None
) -> npt.NDArray[np.bool_]:
    """
    Tell which pages with PG_head are only copies of a head, as ``page_is_fake_head()`` does.

    Where struct pages of a huge page share memory, the first of each shared page is a copy of the head; the next one
    is a tail of the real head.

    :param places: Indexes of the pages.
    :param real: The heads that they should be copies of; any before them if not given.
    """
    result = np.zeros(len(places), np.bool_)
    if not len(places) or not len(tails):
        return result
    aligned = chunk.addresses(places) % np.uint64(layout.page_size) == 0
    following = np.minimum(np.searchsorted(tails, places + 1), len(tails) - 1)
    lead = leads[following]
    result[:] = aligned & (tails[following] == places + 1) & (lead < places if real is None else lead == real)
    return result


def check(chunk: Chunk, memory: MemoryMap) -> Iterator[Match]:
    """Compare what heads claim with what tails say."""
    layout = memory.layout
    found = compound_pages(chunk, layout)
    if found is None:
        return
    count = len(chunk.link)
    heads, orders = found.heads, found.orders
    possible = (orders > 0) & (orders <= MAX_COMPOUND_ORDER)
    # A head at the end of the chunk has its order in the next one.
    possible |= heads == count - 1
    for head in heads[~possible].tolist():
        yield _match(chunk, head, "order", head, layout)
    heads, orders = heads[possible], orders[possible]
    sizes = np.minimum(heads + (np.int64(1) << orders), count) - heads - 1
    if sizes.sum() > MAX_CLAIMS * count:
        # Heads lie within heads: each is left the pages up to the next one, which it still claims.
        sizes = np.minimum(sizes, np.diff(np.append(heads, count - 1)))
    owner = np.repeat(heads, sizes)
    members = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + owner + 1
    if not (np.array_equal(members, found.tails) and np.array_equal(owner, found.leads)):
        yield from _disagreements(chunk, layout, found, members, owner)
    other = chunk.link[members] != chunk.link[owner]
    for position in np.flatnonzero(other).tolist():
        index = int(members[position])
        if chunk.state[index] == INITIALIZED:
            yield _match(chunk, index, "zone", int(owner[position]), layout)


def _disagreements(chunk: Chunk, layout: Layout, found: Compound, members: Indexes, owner: Indexes) -> Iterator[Match]:
    """
    Find where tails are not those that their heads claim.

    :param members: What the heads claim as their tails.
    :param owner: The head of each of them.
    """
    count = len(chunk.link)
    # Pages that aren't tails lead to themselves.
    lead_of = np.arange(count, dtype=np.int64)
    lead_of[found.tails] = found.leads
    wrong = (lead_of[members] != owner) & (chunk.state[members] == INITIALIZED)
    members_wrong, owner_wrong = members[wrong], owner[wrong]
    head_flag = chunk.flags.dtype.type(layout.page.flag("head"))
    legal = chunk.flags[members_wrong] & head_flag != 0
    legal &= _copies(chunk, layout, members_wrong, found.tails, found.leads, owner_wrong)
    for index, head in zip(members_wrong[~legal].tolist(), owner_wrong[~legal].tolist()):
        yield _match(chunk, index, "tail", head, layout)
    claimed = np.zeros(count, np.bool_)
    claimed[members] = True
    # Tails of a head before the chunk are judged by their head's place alone.
    orphan = ~claimed[found.tails] & ~((found.leads < 0) & _could_be_head(chunk, found.leads))
    for index in found.tails[orphan].tolist():
        yield _match(chunk, index, "orphan", None, layout)


def _could_be_head(chunk: Chunk, leads: Indexes) -> npt.NDArray[np.bool_]:
    """Tell which indexes before the chunk can be heads of a page that reaches into it: it is larger, and aligned."""
    pfn = leads + chunk.start_pfn
    size = np.int64(1) << np.int64(max(len(chunk.link) - 1, 1).bit_length() - 1)
    result: npt.NDArray[np.bool_] = (pfn >= 0) & (pfn & (size - 1) == 0)
    return result


def _match(chunk: Chunk, index: int, problem: str, head: int | None, layout: Layout) -> Match:
    order: Any = None
    referenced = True
    if head is not None:
        referenced = bool(chunk.uints(layout.page.refcount_offset)[head])
        if head + 1 < len(chunk.link):
            order = int(chunk.bytes_at(layout.page.order_offset)[head + 1])
    link = int(chunk.link[index])
    start = chunk.start_pfn + index
    if problem == "order":
        # Where the memmap is garbage, each of many adjacent pages has another one. The first stands for all.
        return Match(start, start + 1, (problem, None, None, referenced, link), link, order)
    key = (problem, None if head is None else chunk.start_pfn + head, order, referenced, link)
    return Match(start, start + 1, key, link)


def alike(match: Match, memory: MemoryMap) -> tuple[str, bool]:
    """Return what of a match decides its severity, and its problem."""
    problem, _, _, referenced, _ = match.key
    return problem, referenced


def describe(match: Match, memory: MemoryMap, identify: Identify) -> Violation:
    """Name the head."""
    problem, head, order, referenced, link = match.key
    if problem == "order":
        head, order = match.start, match.value
    whose = f" ({head:#x}, order {order})" if head is not None else ""
    making = "" if referenced else "; the head isn't referenced, so it may be in the making or being freed"
    return Violation(
        ERROR if referenced else WARNING,
        f"{counted(match.pages, 'page')} of {memory.link_name(link)}: {MESSAGES[problem]}{whose}{making}",
        {"problem": problem, "head": head, "order": order},
    )


RULE = Rule(
    summary="compound pages whose tails disagree with their head",
    functions=("compound_head", "page_folio", "prep_compound_page", "free_tail_page_prepare", "put_page"),
    commits=(commit("907ec5fca3dc", "struct pages that nobody initialized look like tails"),),
    needs=(COMPOUND_PAGES, TAILS),
    checks=(PageCheck(check, describe, alike=alike),),
)
