# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule compound-page: on struct pages made by hand, and in stored vmcores."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
from drgn.helpers.linux.mm import PageHead, PageTail, compound_head, compound_order

from mminspect.layout.read import read_memory_map
from mminspect.memmap.reader import Memmap
from mminspect.rules import collectors, compound_page
from mminspect.rules.compound_page import compound_pages
from tests.conftest import Opened, Plant
from tests.kit.planted import PLACES
from tests.kit.structpages import HEAD, LAYOUT, MASKED, Machine, machine, rows
from tests.kit.support import AMD64_HEALTHY, AMD64_NUMA, ARM64, S390X


@pytest.mark.parametrize("layout", [LAYOUT, MASKED])
def test_tail_that_is_none(layout: Any) -> None:
    made = machine(layout)
    made.words[26:28, 1] = 0x1000
    assert rows(made.scan("compound-page")) == [("tail", "error", 26, 28)]
    made.set_int([24], 0x34, 0)
    assert rows(made.scan("compound-page")) == [("tail", "warning", 26, 28)]


@pytest.mark.parametrize("target", [18, 30, 1000, 24.5])
def test_tail_of_another_head(target: float) -> None:
    made = machine()
    made.words[26, 1] = made.address(0) + int(target * 64) | 1
    assert rows(made.scan("compound-page")) == [("tail", "error", 26, 27)]


@pytest.mark.parametrize("layout", [LAYOUT, MASKED])
def test_tails_without_a_head(layout: Any) -> None:
    made = machine(layout)
    made.words[24, 0] = 1 << 57
    assert rows(made.scan("compound-page")) == [("orphan", "error", 25, 32)]


def test_order_that_cannot_be() -> None:
    made = machine()
    made.words.view(np.uint8)[25, 0x10] = 77
    assert rows(made.scan("compound-page")) == [("order", "error", 24, 25), ("orphan", "error", 25, 32)]


def wrong_pages(made: Machine) -> tuple[set[tuple[str, str, int]], int]:
    """Get (problem, severity, pfn) of all wrong pages, and the number of findings."""
    findings = made.scan("compound-page")
    pages = set()
    for finding in findings:
        for start, end in finding.named or ((finding.start_pfn, finding.end_pfn),):
            pages.update((finding.detail["problem"], finding.severity, pfn) for pfn in range(start, end))
        if finding.named:
            assert finding.detail["pages"] == [list(pages) for pages in finding.named]
            assert f" {sum(end - start for start, end in finding.named)} pages in all" in finding.message
            assert (finding.start_pfn, finding.end_pfn) == (finding.named[0][0], finding.named[-1][1])
    return pages, len(findings)


@pytest.mark.parametrize("seed", range(40))
def test_garbage_has_one_finding_for_many_and_names_the_same_pages(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = random.Random(seed)
    made = machine()
    for pfn in range(64):
        if chosen.random() < 0.6:
            made.words[pfn, 0] |= np.uint64(chosen.getrandbits(1) << HEAD)
            lead = chosen.choice((made.address(chosen.randrange(64)) | 1, chosen.getrandbits(64), 0))
            made.words[pfn, 1] = np.uint64(lead)
            made.set_int([pfn], 0x34, chosen.getrandbits(1))
    monkeypatch.setattr(collectors, "MAX_IN_BLOCK", 1 << 30)
    each, number = wrong_pages(made)
    monkeypatch.setattr(collectors, "MAX_IN_BLOCK", 2)
    together, fewer = wrong_pages(made)
    assert together == each
    # Each block has two findings of a problem at most, and two of what is crowded, by severity.
    blocks = 64 // made.layout.pageblock_nr_pages
    assert fewer <= min(number, blocks * 4 * 2)


def test_head_inside_a_compound_page_is_no_copy_of_its_head() -> None:
    """page_is_fake_head() asks whether the struct page begins a page of memory, and for the tail behind it."""
    made = machine()
    made.words[26, 0] |= np.uint64(1 << HEAD)
    made.words[26, 1] = made.address(48)
    made.words.view(np.uint8)[27, 0x10] = 1
    assert ("tail", "error", 26, 27) in rows(made.scan("compound-page"))


def test_compound_page_across_zones() -> None:
    made = machine()
    made.link[28:32] = made.layout.link(0, 2)
    (found,) = made.scan("compound-page")
    assert rows([found]) == [("zone", "error", 28, 32)]
    assert found.detail == {"problem": "zone", "head": 24, "order": 3}


def test_compound_page_larger_than_a_chunk() -> None:
    made = Machine()
    made.compound(32, 5)
    assert made.scan("compound-page", size=16) == []
    made.words[60, 1] = made.address(33) | 1
    assert rows(made.scan("compound-page", size=16)) == [("orphan", "error", 60, 61)]


def test_shared_struct_pages_of_huge_pages_are_legal() -> None:
    # A page of 256 bytes holds four struct pages.
    made = Machine(dataclasses.replace(LAYOUT, page_size=256))
    made.compound(32, 4)
    for first in range(36, 48, 4):
        made.words[first] = made.words[32]
        made.words[first + 1 : first + 4] = made.words[33:36]
    assert made.scan("compound-page") == []
    made.words[36, 0] = 1 << 57
    assert rows(made.scan("compound-page")) == [("tail", "error", 36, 37)]


@pytest.mark.parametrize("name", [AMD64_HEALTHY, AMD64_NUMA, S390X, ARM64])
def test_compound_pages_are_those_of_drgn(name: str, opened: Opened) -> None:
    target = opened(name)[0]
    memory = read_memory_map(target)
    seen = 0
    for chunk in Memmap(target.prog, memory).chunks():
        found = compound_pages(chunk, memory.layout)
        if found is None:
            continue
        vmemmap = target.prog["vmemmap"]
        pick = random.Random(1).sample(range(len(chunk.link)), 30) + found.heads[:10].tolist()
        heads = dict(zip(found.heads.tolist(), found.orders.tolist()))
        leads = dict(zip(found.tails.tolist(), found.leads.tolist()))
        for index in pick:
            page = vmemmap + chunk.start_pfn + index
            assert bool(PageTail(page)) == (index in leads)
            assert bool(PageHead(page)) == (index in heads)
            if PageTail(page):
                assert compound_head(page) == vmemmap + chunk.start_pfn + leads[index]
            if index in heads:
                seen += 1
                assert compound_order(page).value_() == heads[index]
    assert seen >= 10


@pytest.mark.parametrize("name", PLACES)
def test_planted_tail(name: str, plant: Plant, opened: Opened) -> None:
    fault = plant(name)
    memory = read_memory_map(opened(name)[0])
    layout = memory.layout
    place = None
    for chunk in Memmap(fault.prog, memory).chunks():
        found = compound_pages(chunk, layout)
        if found is not None and int((found.orders >= 2).sum()):
            place = chunk.start_pfn + int(found.heads[found.orders >= 2][0])
            break
    assert place is not None
    fault.editor.write_word(fault.page(place + 2) + layout.page.compound_head_offset, 0x1000)
    new, gone = fault.changes()
    assert gone == set()
    assert [(f.rule, f.start_pfn, f.end_pfn, f.detail["head"]) for f in new] == [
        ("compound-page", place + 2, place + 3, place)
    ]


def test_largest_order_is_that_of_the_largest_huge_page() -> None:
    # 16 GiB of pages of 4 KiB.
    assert 4096 << compound_page.MAX_COMPOUND_ORDER == 16 << 30
