# SPDX-License-Identifier: LGPL-2.1-or-later
"""The picture of a memory map, against decoding one page at a time."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.memmap import counted
from mminspect.memmap.chunk import DEFERRED, EXCLUDED, INITIALIZED, POISONED, ZEROED, Chunk, Run
from mminspect.memmap.digest import digest
from mminspect.memmap.picture import NO_LINK, Cells, name_of
from mminspect.memorymap.mmzone import pfn_to_page
from mminspect.walk.picture import Picture
from tests.conftest import Kernels
from tests.kit.pictures import (
    DESTRUCTOR,
    HUGETLB_DTOR,
    LAYOUT,
    LRU,
    OFFLINE_TYPE,
    RESERVED,
    SLAB,
    SLAB_TYPE,
    SWAPBACKED,
    TABLE_TYPE,
    drgn_names,
    expected,
)
from tests.kit.structpages import PAGES, Machine
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, I386_HOLE

KINDS = ("free", "slab", "old slab", "anon", "file", "hugetlb", "compound", "huge anon", "table", "offline", "reserved")
KINDS += ("unknown", "zeroed", "poisoned", "deferred", "excluded", "other zone", "orphans", "broken free", "inner free")


def fill(machine: Machine, pfn: int, order: int, kind: str) -> None:
    """Make a block of pages of a kind."""
    pages = range(pfn, pfn + (1 << order))
    states = {"zeroed": ZEROED, "poisoned": POISONED, "deferred": DEFERRED, "excluded": EXCLUDED}
    if kind in ("slab", "old slab", "hugetlb", "compound", "huge anon") and order:
        machine.compound(pfn, order)
    if kind in ("free", "inner free", "broken free"):
        for first in range(pfn, pages.stop, 16):
            machine.free(first, min(order, 4))
        if kind == "inner free" and order:
            machine.free(pfn + 1, 0)
        if kind == "broken free":
            machine.words[pfn, 5] = 40
    elif kind in states:
        machine.state[list(pages)] = states[kind]
    elif kind == "slab":
        machine.set_int([pfn], 0x30, SLAB_TYPE)
    elif kind == "old slab":
        machine.words[pfn, 0] |= np.uint64(1 << SLAB)
    elif kind == "hugetlb" and order:
        machine.words.view(np.uint8)[pfn + 1, DESTRUCTOR] = HUGETLB_DTOR
    elif kind in ("anon", "huge anon", "file"):
        bits = 1 << LRU | (kind != "file") << SWAPBACKED
        # Other pages than a head have the bits of another meaning in huge pages.
        machine.words[[pfn] if kind == "huge anon" else list(pages), 0] |= np.uint64(bits)
    elif kind in ("table", "offline"):
        machine.set_int(pages, 0x30, TABLE_TYPE if kind == "table" else OFFLINE_TYPE)
    elif kind == "reserved":
        machine.words[list(pages), 0] |= np.uint64(1 << RESERVED)
    elif kind == "other zone":
        machine.link[list(pages)] = machine.layout.link(0, 2)
    elif kind == "orphans":
        # Tails whose head is no head, and tails that lead ahead.
        machine.words[list(pages), 1] = machine.address(pfn + (1 << order)) | 1


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Make machines of random blocks."""
    machine = Machine(LAYOUT)
    pfn = 0
    few = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    while pfn < PAGES:
        largest = 6 if pfn == 0 else (pfn & -pfn).bit_length() - 1
        order = draw(st.integers(0, largest))
        fill(machine, pfn, order, draw(st.sampled_from(few)))
        pfn += 1 << order
    return machine


def chunks(machine: Machine, cuts: Sequence[int]) -> list[Chunk]:
    """Cut the pages of a machine into chunks; where all are alike they say so, as those of the reader do."""
    edges = [0, *sorted(set(cuts)), PAGES]
    whole = machine.chunks()[0]
    result = []
    for start, end in zip(edges, edges[1:]):
        part = whole.part(start, end)
        assert part.words is not None
        if not part.state.any() and len(set(part.link.tolist())) == 1:
            runs = [Run(start, end, int(part.link[0]), INITIALIZED)]
            part = dataclasses.replace(part, known_runs=runs, known_digest=digest(part.words))
        result.append(part)
    return result


def picture(machine: Machine, order: int, cuts: Sequence[int] = (), span: Any = None) -> Cells:
    """Gather the picture of a machine."""
    made = Picture(machine.memory(), order, span)
    for chunk in chunks(machine, cuts):
        made.take(chunk.start_pfn, made.look(chunk))
    return made.cells


def counts(cells: Cells) -> list[dict[str, int]]:
    """Get the counts of each cell by name."""
    result: list[dict[str, int]] = [{} for _ in cells.start]
    for row, code, pages in zip(cells.row.tolist(), cells.code.tolist(), cells.pages.tolist()):
        assert name_of(code) not in result[row]
        result[row][name_of(code)] = pages
    return result


CUTS = st.lists(st.sampled_from([16, 32, 48]), max_size=3)


@given(machines(), CUTS)
def test_every_page_is_what_it_is_alone(machine: Machine, cuts: list[int]) -> None:
    cells = picture(machine, 0, cuts)
    seen = []
    for start, end, found in zip(cells.start.tolist(), cells.end.tolist(), counts(cells)):
        assert list(found.values()) == [end - start]
        seen += list(found) * (end - start)
    assert seen == expected(machine)


@given(machines(), CUTS, st.integers(0, 6))
def test_cells_count_all_their_pages_and_cross_no_boundary(machine: Machine, cuts: list[int], order: int) -> None:
    cells = picture(machine, order, cuts)
    names = expected(machine)
    assert cells.start.tolist() == [0, *cells.end.tolist()[:-1]]
    assert cells.end[-1] == PAGES
    for start, end, link, found in zip(cells.start.tolist(), cells.end.tolist(), cells.link.tolist(), counts(cells)):
        assert found == dict(Counter(names[start:end]))
        if len(found) > 1:
            assert start >> order == (end - 1) >> order
        if link != NO_LINK and len(cells.start) < 16:
            assert set(machine.link[start:end].tolist()) == {link}


@given(machines(), CUTS, st.integers(0, 5))
def test_the_picture_is_the_same_however_the_memory_is_cut(machine: Machine, cuts: list[int], order: int) -> None:
    whole, parts = picture(machine, order), picture(machine, order, cuts)
    assert all(np.array_equal(one, other) for one, other in zip(whole, parts))


@given(machines(), CUTS, st.tuples(st.integers(0, 63), st.integers(1, 64)))
def test_a_range_shows_its_pages_and_no_others(machine: Machine, cuts: list[int], span: tuple[int, int]) -> None:
    low, high = span[0], min(64, span[0] + span[1])
    cells = picture(machine, 0, cuts, (low, high))
    total: Counter[str] = Counter()
    for found in counts(cells):
        total.update(found)
    assert total == Counter(expected(machine)[low:high])
    assert (cells.start[0], cells.end[-1]) == (low, high)


def test_tails_of_a_page_that_began_in_an_earlier_chunk_are_what_their_head_is() -> None:
    machine = Machine(LAYOUT)
    fill(machine, 0, 6, "hugetlb")
    assert counts(picture(machine, 6, [16, 32, 48])) == [{"hugetlb": 64}]
    assert counts(picture(machine, 0, [16, 32, 48], (50, 60))) == [{"hugetlb": 10}]


def test_a_cell_of_garbage_is_one_cell_that_has_several_links() -> None:
    machine = Machine(LAYOUT)
    machine.link[:] = np.arange(PAGES) % 5
    assert len(picture(machine, 6).start) == 1
    assert len(picture(machine, 3).start) == 64


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_400M, I386_HOLE])
def test_the_pages_of_a_kernel_are_what_drgn_says_that_they_are(name: str, kernels: Kernels) -> None:
    kernel = kernels(name)
    memory = kernel.memory
    made = Picture(memory, 0)
    for window in kernel.memmap.windows():
        for chunk in kernel.memmap.read(*window):
            made.take(chunk.start_pfn, made.look(chunk))
    cells = made.cells
    found = counts(cells)
    starts = cells.start.tolist()
    # Where most is going on, and where little is.
    pfns = [p for p in (*range(0x1000, 0x1800), *range(0x2000, 0x4800)) if memory.section(p)]
    layout = memory.layout
    pages = []
    for pfn in pfns:
        section = memory.section(pfn)
        assert section is not None
        pages.append((pfn, pfn_to_page(layout, section, pfn)))
    buddy = kernel.target.vmcoreinfo.buddy_mapcount
    assert buddy is not None
    known = drgn_names(kernel.prog, pages, buddy, layout.max_order)
    wrong = {}
    for pfn, expects in known.items():
        (is_,) = found[int(np.searchsorted(starts, pfn, "right")) - 1]
        if (expects or "other") != (is_ if expects else "other") or (not expects and is_ in ("file", "anon", "slab")):
            wrong[pfn] = (is_, expects)
    assert wrong == {}
    assert {"slab", "reserved"} <= set(known.values())


@pytest.mark.parametrize("cuts", [[16], [48], [16, 48]])
def test_a_long_run_that_begins_inside_a_cell_does_not_make_it_longer(cuts: list[int]) -> None:
    machine = Machine(LAYOUT)
    for pfn in (16, 32):
        fill(machine, pfn, 4, "free")
    cells = picture(machine, 5, cuts)
    assert (cells.start.tolist(), cells.end.tolist()) == ([0, 32], [32, 64])
    assert counts(cells) == [{"unknown": 16, "free 4": 16}] * 2


COMPILED = pytest.mark.skipif(counted.count is None, reason="mminspect is not compiled")
ONE_LINK = tuple(kind for kind in KINDS if kind not in ("zeroed", "poisoned", "deferred", "excluded", "other zone"))


@COMPILED
@pytest.mark.parametrize("order", [1, 4, 6])
@given(st.data())
def test_compiled_code_counts_as_numpy_does(order: int, data: st.DataObject) -> None:
    machine = Machine(LAYOUT)
    pfn = 0
    while pfn < PAGES:
        block = data.draw(st.integers(0, 6 if pfn == 0 else (pfn & -pfn).bit_length() - 1))
        fill(machine, pfn, block, data.draw(st.sampled_from(ONE_LINK)))
        pfn += 1 << block
    # Damage: tails that lead anywhere, out of free blocks and into them too.
    for at, lead in data.draw(st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(-2, PAGES)), max_size=4)):
        machine.words[at, 1] = machine.address(lead) | 1
    cut = data.draw(st.integers(1, PAGES - 1))
    with pytest.MonkeyPatch.context() as patch:
        seen: list[object] = []
        count = counted.count
        patch.setattr(counted, "count", lambda *arguments: seen.append(1) or count(*arguments))
        compiled = picture(machine, order, [cut])
        patch.setattr(counted, "count", None)
        plain = picture(machine, order, [cut])
    for one, other in zip(compiled, plain):
        assert one.tolist() == other.tolist()
    # Free pages of a whole zone and the like are told by the digest.
    assert seen or all(name_of(code).startswith(("free", "unknown", "reserved")) for code in plain.code.tolist())


@COMPILED
def test_arguments_that_do_not_fit_together_are_refused() -> None:
    machine = Machine(LAYOUT)
    spec = counted._spec(machine.layout)
    assert spec is not None
    assert counted.count is not None
    pages, edges = machine.words[:4], np.array([0, 2, 4], np.int64)
    good = [pages, spec, machine.address(0), 0, 2, edges, np.zeros(2, np.uint8), np.zeros(64, np.int64)]
    assert counted.count(*good)[1:] == (-1, 0)
    changes: list[tuple[int, object]] = [
        (0, pages[:0]),
        (1, spec[:-8]),
        (1, bytes(len(spec))),
        (1, spec[:8] + b"\xff" * (len(spec) - 8)),
        (3, -1),
        (3, 4),
        (4, 99),
        (5, np.array([0, 2, 5], np.int64)),
        (5, np.array([0, 3, 2], np.int64)),
        (5, np.array([-1, 2, 4], np.int64)),
        (5, np.array([1, 2, 4], np.int64)),
        (5, np.array([0, 2, 3], np.int64)),
        (6, np.zeros(3, np.uint8)),
        (6, np.full(2, 64, np.uint8)),
        (6, np.full(2, 31, np.uint8)),
        (7, np.zeros(63, np.int64)),
    ]
    for index, value in changes:
        with pytest.raises(ValueError, match="fit together"):
            counted.count(*good[:index], value, *good[index + 1 :])
