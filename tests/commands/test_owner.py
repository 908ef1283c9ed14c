# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who has a page: what the guest counted, what the C says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from drgn import Object

from mminspect.commands import owner, struct_page
from mminspect.commands.owner import holder
from mminspect.commands.page import describe
from mminspect.commands.struct_page import Entry, flag_names, is_hugetlb, read_entry
from mminspect.consequences.attach import Outcomes
from mminspect.kernel.kernel import Kernel
from mminspect.memmap.chunk import INITIALIZED
from mminspect.memmap.page import Page
from mminspect.memorymap.sections import Section
from tests.conftest import Kernels
from tests.kit.handmade import PAGE, SPARSE
from tests.kit.made import MadeKernel
from tests.kit.support import AMD64_400M, AMD64_HEALTHY


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


def test_flags_of_a_page_are_named_by_whose_it_is(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bit of PG_anon_exclusive has another name in a page of a file."""
    kernel = Kernel(kernels(AMD64_400M).target, kernels(AMD64_400M).types)
    memory = kernel.memory
    outcomes = Outcomes(kernel)
    bit = 1 << kernel.prog["PG_owner_2"].value_()
    original = struct_page.decode_page
    names = set()
    for pfn in range(0x2B00, 0x4000):
        section = memory.section(pfn)
        assert section is not None
        entry = read_entry(kernel, pfn, section)
        if entry.kind is not None or entry.slab or not entry.page.mapping or entry.page.refcount <= 0:
            continue
        with monkeypatch.context() as changed:
            changed.setattr(
                struct_page,
                "decode_page",
                lambda *a: (page := original(*a))._replace(flags=page.flags | bit),
            )
            flags = owner.describe(kernel, outcomes, pfn, section, INITIALIZED)["flags"].split("|")
        names.add((entry.page.mapping & 3 == 1, "PG_anon_exclusive" in flags, "PG_owner_2" in flags))
    assert names == {(True, True, False), (False, False, True)}


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


class OneHugePage:
    """A kernel of some version, as far as hugetlb's pages are told by it, and the struct pages of one huge page."""

    def __init__(self, made: MadeKernel, layout: Any, second: int) -> None:
        self.prog = made.prog
        self.memory = SimpleNamespace(layout=layout, section=lambda pfn: None)
        made.memory(0x1000, [0, 0, 0, 0, 0, 0, 0, 0, 0, second, 0, 0, 0, 0, 0, 0])


LAYOUT = dataclasses.replace(SPARSE, page=dataclasses.replace(PAGE, flag_names=("locked", "head", "lru")))


@pytest.mark.parametrize(
    ("version", "second", "expected"),
    [
        ("5.10", 2, True),
        ("5.10", 1, False),
        ("6.5", 2, True),
        ("6.5", 3, False),
        ("6.6", 1 << 8, True),
        ("6.6", 1 << 9, False),
        ("6.9", 1 << 8, False),
    ],
)
@pytest.mark.parametrize(("refcount", "mapping"), [(0, 0), (1, 0), (1, 1)])
def test_huge_page_of_hugetlb(version: str, second: int, expected: bool, refcount: int, mapping: int) -> None:
    """HUGETLB_PAGE_DTOR in page[1].compound_dtor or folio._folio_dtor, PG_hugetlb in folio._flags_1, or a page type."""
    made = MadeKernel()
    made.struct("page", {"flags": "long", "compound_dtor" if version == "5.10" else "other": "unsigned char"}, 64)
    folio = {f"word {i}": "long" for i in range(9)}
    made.struct("folio", {**folio, {"6.5": "_folio_dtor", "6.6": "_flags_1"}.get(version, "x"): "unsigned char"})
    if version in ("5.10", "6.5"):
        dtors = ("NULL_COMPOUND_DTOR", "COMPOUND_PAGE_DTOR", "HUGETLB_PAGE_DTOR", "TRANSHUGE_PAGE_DTOR")
        made.enum("compound_dtor_id", {name: index for index, name in enumerate(dtors)})
    flags = {"PG_locked": 0, "PG_head": 1, "PG_lru": 2, "__NR_PAGEFLAGS": 3}
    made.enum("pageflags", {**flags, "PG_hugetlb": 8} if version == "6.6" else flags)
    kernel: Any = OneHugePage(made, LAYOUT, second)
    page = Page(0, 0, INITIALIZED, flags=2, refcount=refcount, mapping=mapping, words=(1,))
    kind = "hugetlb" if version == "6.9" else None
    entry = Entry(Object(made.prog, "struct page *", 0x1000), page, kind, False)
    assert is_hugetlb(kernel, entry) == (expected or version == "6.9")
    if is_hugetlb(kernel, entry):
        in_use = f"hugetlb: a huge page in use{', anonymous memory' if mapping else ''}"
        assert holder(kernel, entry) == (in_use if refcount else "hugetlb: a free huge page")
    not_a_head = Entry(entry.pointer, page._replace(flags=0), None, False)
    assert not is_hugetlb(kernel, not_a_head)


@pytest.mark.parametrize(
    ("names", "mapping", "refcount", "expected"),
    [
        ("hwpoison", 0, 1, "nobody: memory failure took it from the allocator (PG_hwpoison)"),
        ("hwpoison", 0, 0, "nobody: memory failure took it from the allocator (PG_hwpoison)"),
        ("hwpoison", 1, 1, "anonymous memory"),
        ("hwpoison reserved", 0, 1, "reserved: the kernel image, firmware or a hole"),
    ],
)
def test_page_that_memory_failure_took(
    names: str, mapping: int, refcount: int, expected: str, kernels: Kernels
) -> None:
    kernel = kernels(AMD64_400M)
    flags = sum(1 << kernel.prog[f"PG_{name}"].value_() for name in names.split())
    page = Page(0, 0, INITIALIZED, flags=flags, refcount=refcount, mapping=mapping, words=(1,))
    assert holder(kernel, Entry(Object(kernel.prog, "struct page *", 0), page, None, False)) == expected


@pytest.mark.parametrize(
    ("flag", "early", "mapping", "expected"),
    [
        ("owner_priv_1", False, 0, "the memmap of its own memory block (memmap_on_memory)"),
        ("owner_priv_1", True, 0, "in use by the kernel"),
        ("owner_priv_1", False, 0x1000, "the page cache: a file"),
        ("uptodate", False, 0, "in use by the kernel"),
    ],
)
def test_page_that_hosts_the_memmap_of_its_block(
    flag: str, early: bool, mapping: int, expected: str, kernels: Kernels
) -> None:
    """mhp_init_memmap_on_memory() sets PG_vmemmap_self_hosted, which is PG_owner_priv_1, on pages of plugged memory."""
    kernel = kernels(AMD64_400M)
    flags = ("SECTION_HAS_MEM_MAP", "SECTION_IS_ONLINE", *(("SECTION_IS_EARLY",) if early else ()))
    section = Section(0, ((0, 64),), 0, 0x1000, flags)
    there: Any = SimpleNamespace(
        prog=kernel.prog, memory=SimpleNamespace(layout=kernel.memory.layout, section=lambda pfn: section)
    )
    bit = 1 << kernel.prog[f"PG_{flag}"].value_()
    page = Page(5, 0, INITIALIZED, flags=bit, refcount=1, mapping=mapping, words=(1,))
    assert holder(there, Entry(Object(kernel.prog, "struct page *", 0), page, None, False)) == expected


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


def test_name_of_a_slab_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "cast", lambda name, head: head)
    for name, shown in ((b"kmalloc-64", "kmalloc-64"), (b"x" * 1000, "x" * owner.MAX_NAME)):
        head: Any = SimpleNamespace(slab_cache=SimpleNamespace(name=SimpleNamespace(string_=lambda name=name: name)))
        assert owner.slab_cache(head, head) == shown


def test_page_without_references_may_be_the_tail_of_an_allocation(kernels: Kernels) -> None:
    kernel = kernels(AMD64_HEALTHY)
    layout, blocks = kernel.memory.layout, kernel.per_cpu_blocks
    listed = {pfn for start, end in zip(blocks.start.tolist(), blocks.end.tolist()) for pfn in range(start, end)}
    found = []
    for chunk in kernel.memmap.chunks():
        free = chunk.free_pages
        assert free is not None
        for at, order in zip(free.at.tolist(), free.order.tolist()):
            listed.update(range(chunk.start_pfn + at, chunk.start_pfn + at + (1 << order)))
        unused = np.flatnonzero(
            (chunk.uints(layout.page.refcount_offset) == 0)
            & (chunk.uints(layout.page.mapcount_offset) == 0xFFFFFFFF)
            & (chunk.column(layout.page.compound_head_offset or 0) & np.uint64(1) == 0)
            & (chunk.flags & np.uint64(layout.page.flag("slab") | layout.page.reserved) == 0)
        )
        found += [pfn for pfn in (unused + chunk.start_pfn).tolist() if pfn not in listed]
    pfn = found[0]
    (page,) = describe(kernel, pfn, pfn + 1)
    assert page["owner"] == "unknown: no references; possibly the tail of an allocation that is not compound"
