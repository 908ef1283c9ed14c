# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who has a page: what the guest counted, what the C says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from drgn import Object

from mminspect.commands.owner import holder
from mminspect.commands.page import describe
from mminspect.commands.struct_page import Entry, flag_names, read_entry
from mminspect.memmap.chunk import INITIALIZED
from mminspect.memmap.page import Page
from tests.conftest import Kernels
from tests.kit.support import AMD64_400M


def test_owners_add_up_to_what_the_guest_counted(kernels: Kernels) -> None:
    """vm_stat[] of the guest had NR_ANON_MAPPED 29, NR_FILE_PAGES and NR_SHMEM 507, NR_PAGETABLE 89."""
    kernel = kernels(AMD64_400M)
    memory = kernel.memory
    counts: dict[str, int] = Counter()
    for chunk in kernel.memmap.chunks():
        section = memory.section(chunk.start_pfn)
        assert section is not None
        used = chunk.uints(memory.layout.page.refcount_offset) != 0
        used &= ~chunk.reserved(chunk.start_pfn, chunk.end_pfn) & (chunk.state == INITIALIZED)
        for index in np.flatnonzero(used).tolist():
            counts[str(holder(kernel, read_entry(kernel, chunk.start_pfn + index, section))).split(" (")[0]] += 1
    assert counts["anonymous memory"] == 29
    assert counts["the page cache: shmem or tmpfs"] == 507
    assert counts["a page table"] == 89


def test_tail_has_the_owner_of_its_head(kernels: Kernels) -> None:
    kernel = kernels(AMD64_400M)
    memory = kernel.memory
    tails = 0
    pages = {page["pfn"]: page for page in describe(kernel, 0x4000, 0x4080)}
    for page in pages.values():
        if page.get("compound", {}).get("part") != "tail":
            continue
        tails += 1
        head = page["compound"]["head_pfn"]
        section = memory.section(head)
        assert section is not None
        assert page["owner"] == f"compound page at {head:#x}: {holder(kernel, read_entry(kernel, head, section))}"
        assert page["slab"] == pages[head]["slab"]
        # The order in the first tail's word is no flags.
        assert page["flags"] == ""
    assert tails


@pytest.mark.parametrize(
    ("names", "kind", "anon", "tail", "expected"),
    [
        ("uptodate", None, False, False, "PG_uptodate"),
        ("uptodate", "buddy", False, False, "PG_reported"),
        ("owner_2", None, False, False, "PG_owner_2"),
        ("owner_2 swapbacked", None, True, False, "PG_anon_exclusive PG_swapbacked"),
        ("owner_priv_1 swapbacked", None, True, False, "PG_swapbacked PG_swapcache"),
        ("owner_priv_1", None, False, False, "PG_owner_priv_1"),
        ("uptodate lru owner_2 reserved hwpoison", None, True, True, "PG_anon_exclusive PG_hwpoison PG_reserved"),
        ("uptodate lru owner_2 swapbacked", None, False, True, ""),
    ],
)
def test_flags_have_one_name_a_bit(
    names: str, kind: str | None, anon: bool, tail: bool, expected: str, kernels: Kernels
) -> None:
    prog = kernels(AMD64_400M).prog
    flags = 0x5 << 60
    for name in names.split():
        flags |= 1 << prog[f"PG_{name}"].value_()
    assert sorted(flag_names(prog, flags, kind, anon, tail)) == expected.split()


@pytest.mark.parametrize(
    ("mapping", "changes", "expected"),
    [
        (0x1, {}, "anonymous memory"),
        (0x3, {}, "anonymous memory, merged by KSM"),
        (0x2, {}, "in use by the kernel: a page of a driver that can move it"),
        (0x1000, {}, "the page cache: a file"),
        (0, {}, "in use by the kernel"),
        (0x1, {"refcount": 0}, None),
        (0x1, {"slab": True}, "a slab cache"),
        (0x1, {"kind": "table"}, "a page table"),
        (0x1, {"kind": "kmemcg table"}, "a page table"),
        (0x1, {"kind": "kmemcg"}, "in use by the kernel, charged to a memory cgroup"),
        (0x1, {"kind": "guard"}, "page type guard"),
    ],
)
def test_mapping_tells_the_owner(mapping: int, changes: dict[str, Any], expected: str | None, kernels: Kernels) -> None:
    kernel = kernels(AMD64_400M)
    of = {"kind": None, "slab": False, **changes}
    page = Page(0, 0, INITIALIZED, refcount=of.pop("refcount", 1), mapping=mapping, words=(1,))
    assert holder(kernel, Entry(Object(kernel.prog, "struct page *", 0), page, **of)) == expected


def test_mapcount_is_the_number_of_mappings(kernels: Kernels) -> None:
    kernel = kernels(AMD64_400M)
    memory = kernel.memory
    seen = set()
    for page in describe(kernel, 0x2B80, 0x2BC0):
        section = memory.section(page["pfn"])
        assert section is not None
        raw = read_entry(kernel, page["pfn"], section).page.mapcount
        assert page["mapcount"] == (None if page["page_type"] else raw + 1)
        seen.add(page["mapcount"])
    assert {0, 1} <= seen
