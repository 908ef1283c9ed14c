# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule free-list: on struct pages made by hand, and in stored vmcores."""

from __future__ import annotations

import numpy as np
import pytest
from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry

from mminspect.layout.read import read_memory_map
from mminspect.memmap.chunk import UNMAPPED
from mminspect.memmap.reader import Memmap
from mminspect.rules.free_list import NO_LIST, _violation, ends_of_chains
from tests.conftest import Opened, Plant
from tests.kit.handmade import zone
from tests.kit.planted import PLACES, a_free_block
from tests.kit.structpages import STRICT, machine
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA, ARM64, S390X


@pytest.mark.parametrize(("locked", "severity"), [(False, "error"), (True, "note")])
def test_nr_free_that_does_not_match(locked: bool, severity: str) -> None:
    made = machine()
    made.locked = locked
    made.extra[3] = 1
    (found,) = made.scan("free-list")
    assert (found.severity, found.detail["problem"], found.detail["order"]) == (severity, "count", 3)
    assert (found.detail["nr_free"], found.detail["counted"]) == (3, 2)


def test_free_page_that_is_on_no_list() -> None:
    made = machine()
    areas = made.areas()
    made.set_int([40], 0x30, 0xF0000000)
    made.words[40, 5] = 3
    made.words[40, 1] = made.words[40, 2] = made.address(40) + 8
    found = made.scan("free-list", areas)
    assert [(f.detail["problem"], f.detail["pfns"]) for f in found] == [("count", []), ("cycle", [40])]


def test_link_that_leads_elsewhere() -> None:
    made = machine()
    areas = made.areas()
    made.words[8, 1] = made.address(50)
    (found,) = made.scan("free-list", areas)
    # Page 8 leads away, and its successor, the list's head, doesn't lead back to it.
    assert (found.detail["problem"], found.detail["pfns"], found.detail["next"]) == ("link", [8], made.address(50))


@pytest.mark.parametrize(
    ("flip", "hardware"),
    [(1 << 40, "one bit"), (1 << 3, "one bit"), (0x5A << 48, "one byte"), (1 << 40 | 1 << 3, None), (1 << 6, None)],
)
def test_pointer_that_is_wrong_in_one_place_looks_like_hardware(flip: int, hardware: str | None) -> None:
    made = machine()
    areas = made.areas()
    made.words[0, 1] = int(made.words[0, 1]) ^ flip
    (found,) = made.scan("free-list", areas)
    # The last flip makes it another page's address, which a bug can leave there.
    assert found.detail["problem"] == "link" and found.detail.get("hardware") == hardware
    assert (f"differs in {hardware} from" in found.message) == bool(hardware)


def test_finding_of_two_blocks_has_the_pages_of_the_first() -> None:
    made = machine()
    areas = made.areas()
    made.words[[0, 8], 1] = made.address(50)
    (found,) = made.scan("free-list", areas)
    assert (found.start_pfn, found.end_pfn, found.detail["pfns"]) == (0, 8, [0, 8])
    assert found.named == ((0, 8), (8, 16))


def test_link_that_does_not_lead_back() -> None:
    made = machine()
    areas = made.areas()
    made.words[8, 2] = made.address(50)
    (found,) = made.scan("free-list", areas)
    assert (found.detail["problem"], found.detail["pfns"]) == ("link", [0])


def test_page_on_the_list_of_another_order() -> None:
    made = machine()
    areas = made.areas()
    made.words[17, 5] = 2
    found = made.scan("free-list", areas)
    assert {(f.detail["problem"], f.detail["order"]) for f in found} >= {("count", 0), ("count", 2), ("link", 0)}
    assert all(f.severity == "error" for f in found)


def test_page_on_the_list_of_another_migratetype() -> None:
    assert machine().scan("free-list") == []
    made = machine(STRICT)
    (found,) = made.scan("free-list")
    assert (found.severity, found.start_pfn, found.end_pfn) == ("warning", 20, 22)
    assert (found.detail["list"], found.detail["pageblock"]) == ("UNMOVABLE", "MOVABLE")
    # Block 2 has 8 pages from 16 on.
    made.bits = b"\x11\x10\x11\x11"
    assert [f.detail["pfns"] for f in made.scan("free-list")] == [[17]]


def test_zone_that_cannot_be_read_is_not_judged() -> None:
    made = machine()
    made.extra[0] = 5
    made.state[60] = UNMAPPED
    assert made.scan("free-list") == []


def test_too_many_free_pages_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mminspect.rules.free_list.MAX_FOLLOWED", 4)
    made = machine()
    areas = made.areas()
    made.words[8, 1] = made.address(50)
    made.extra[3] = 1
    (found,) = made.scan("free-list", areas, size=16)
    assert (found.severity, found.detail) == ("note", {"problem": "not followed", "pages": 5})
    found, note = sorted(made.scan("free-list", size=16), key=lambda f: f.severity)
    assert (found.detail["problem"], note.detail["problem"]) == ("count", "not followed")


def test_ends_of_chains() -> None:
    # Two heads; 2 -> 3 -> 1; 4 -> 0; 5 <-> 6; 7 -> 7; 8 -> 5.
    chains = np.array([4, 2, 3, 1, 0, 6, 5, 7, 5])
    assert ends_of_chains(chains, 2).tolist() == [0, 1, 1, 1, 0, *[NO_LIST] * 4]
    long = np.roll(np.arange(1000), -1)
    assert set(ends_of_chains(long, 1).tolist()) == {0}


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, S390X, ARM64])
def test_free_pages_are_those_on_the_lists(name: str, opened: Opened) -> None:
    """Walk the lists of one zone by drgn."""
    target = opened(name)[0]
    prog = target.prog
    memory = read_memory_map(target)
    layout = memory.layout
    chosen = max(memory.populated_zones, key=lambda z: z.spanned)
    there = Object(prog, "struct zone", address=chosen.address)
    expected = {
        (page.value_(), order)
        for order, area in enumerate(there.free_area)
        for head in area.free_list
        for page in list_for_each_entry("struct page", head.address_of_(), "lru")
    }
    found = set()
    for chunk in Memmap(prog, memory).chunks():
        free = chunk.free_pages
        assert free is not None
        for at, order in zip(free.at.tolist(), free.order.tolist()):
            if chunk.link[at] == layout.link(chosen.node, chosen.index):
                pfn = chunk.start_pfn + at
                found.add(((chunk.section.mem_map + pfn * layout.page.size) % (1 << layout.word_bits), order))
    assert found == expected
    assert len(found) > 20


@pytest.mark.parametrize("name", PLACES)
def test_planted_list(name: str, plant: Plant) -> None:
    fault = plant(name)
    pfn = a_free_block(fault, 3)
    offset = fault.prog.type("struct page").member("lru").offset
    fault.editor.write_word(fault.page(pfn) + offset, 0x1000)
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.detail["problem"], f.detail["next"]) for f in new] == [("free-list", "link", 0x1000)]
    assert pfn in new[0].detail["pfns"]


def test_only_the_first_sixteen_pages_are_shown() -> None:
    found = _violation(zone(1, 0, 64), 0, "cycle", "what", range(20, 0, -1), {})
    assert (found.detail["pages"], found.detail["pfns"]) == (20, list(range(1, 17)))
    assert (len(found.named), found.pages) == (16, (1, 2))
