# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect page``: what it knows of single pages, and how it looks in a narrow terminal."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest
from drgn import FaultError, Object

from mminspect.commands import struct_page
from mminspect.commands.owner import holder
from mminspect.commands.page import describe
from mminspect.commands.struct_page import Entry, flag_names, read_entry
from mminspect.kernel.kernel import Kernel
from mminspect.layout.pagetypes import page_type
from mminspect.memmap.chunk import INITIALIZED
from mminspect.memmap.columns import free_pages, int_column
from mminspect.render.page import write_pages
from tests.conftest import Cli, Kernels, Scanned, Unpacked
from tests.support import AMD64_400M, AMD64_HEALTHY, AMD64_NUMA, ARM64, I386_HOLE, S390X

Inspect = Callable[[str, int], dict[str, Any]]

# A page in the middle of a zone of each machine.
PAGES = {
    AMD64_HEALTHY: 0x2000,
    AMD64_400M: 0x18FE0,
    AMD64_NUMA: 0x20203,
    ARM64: 0x48000,
    S390X: 0x8000,
    I386_HOLE: 0xA17B,
}


@pytest.fixture
def inspect(kernels: Kernels) -> Inspect:
    """Give what is known of one page of a stored vmcore."""

    def get(name: str, pfn: int) -> dict[str, Any]:
        return describe(kernels(name), pfn, pfn + 1)[0]

    return get


def test_hole_of_i386(inspect: Inspect) -> None:
    page = inspect(I386_HOLE, 0xA17B)
    assert page["state"] == "zeroed"
    assert (page["refcount"], page["mapcount"], page["page_type"]) == (0, None, None)
    assert page["migratetype"] is None
    assert page["migratetype_why"] == "the index is outside of the bitmap"
    assert page["owner"] == "nobody: the entry is empty"
    assert {f["rule"] for f in page["findings"]} == {"uninitialized", "bitmap-bounds", "zone-span", "mixed-zone"}
    assert page["subsection"] is None
    assert int(page["words"][0], 16) == 0


def test_neighbours_on_both_sides_of_a_node_boundary(inspect: Inspect) -> None:
    page = inspect(AMD64_NUMA, 0x20300)
    sides = {item["boundary"]: item for item in page["neighbours"]}
    assert sides["run start"]["before"]["link"] != sides["run start"]["after"]["link"]
    assert sides["run start"]["after"]["link"] == f"node {page['link']['node']} zone {page['link']['zone']}"
    assert sides["page start"]["before"]["pfn"] == 0x202FF
    assert sides["pageblock end"]["pfn"] == 0x20400
    assert page["bitmap_value"] >> page["bitmap_index"] % 64 & 7 == 1
    first = inspect(AMD64_NUMA, 0)
    assert next(item for item in first["neighbours"] if item["boundary"] == "page start")["before"] is None


def test_free_page_says_which_list_it_is_on(kernels: Kernels, inspect: Inspect) -> None:
    kernel = kernels(AMD64_HEALTHY)
    found = 0
    for pfn in range(0x4000, 0x12000, 0x400):
        buddy = inspect(AMD64_HEALTHY, pfn)["buddy"]
        if buddy is None or "broken" in buddy["list"]:
            continue
        found += 1
        assert buddy["list"]["order"] == buddy["order"]
        assert buddy["head_pfn"] <= pfn < buddy["head_pfn"] + (1 << buddy["order"])
        inner = inspect(AMD64_HEALTHY, pfn + 1)["buddy"]
        assert inner is not None
        assert inner["head_pfn"] <= pfn + 1 < inner["head_pfn"] + (1 << inner["order"])
    assert found
    # A page whose links lead nowhere is on no list.
    empty = kernel.memory.sections[0].mem_map & ((1 << 64) - 1)
    assert "broken" in kernel.free_lists.find(empty)


@pytest.mark.parametrize(
    ("name", "mapcount", "kind"),
    [
        (AMD64_HEALTHY, -1, None),
        (AMD64_HEALTHY, 0, None),
        (AMD64_HEALTHY, ~0x80, "buddy"),
        (AMD64_HEALTHY, ~0x200, "table"),
        (AMD64_400M, -1, None),
        (AMD64_400M, 7, None),
        (AMD64_400M, 0xF0000000 - (1 << 32), "buddy"),
    ],
)
def test_page_types(name: str, mapcount: int, kind: str, kernels: Kernels) -> None:
    assert page_type(kernels(name).target, mapcount) == kind


class OtherKernel:
    """A kernel of which only what its page types are told by is known."""

    def __init__(self, release: str, member: str = "", types: Any = (), **numbers: int) -> None:
        self.prog = self.vmcoreinfo = self
        self.release = release
        self.enumerators = [SimpleNamespace(name=name, value=value) for name, value in types]
        self._member = member
        self._numbers = {f"NUMBER({name})": value for name, value in numbers.items()}

    def type(self, name: str) -> OtherKernel:
        if name == "enum pagetype" and not self.enumerators:
            raise LookupError(name)
        return self

    def has_member(self, name: str) -> bool:
        return name == self._member

    def number(self, key: str) -> int | None:
        return self._numbers.get(key)


# enum pagetype of Linux 6.11.
PAGETYPE_6_11 = [
    ("PG_buddy", 0x40000000),
    ("PG_offline", 0x20000000),
    ("PG_table", 0x10000000),
    ("PG_guard", 0x08000000),
    ("PG_hugetlb", 0x04000000),
    ("PG_slab", 0x02000000),
    ("PG_zsmalloc", 0x01000000),
    ("PAGE_TYPE_BASE", 0x80000000),
    ("PAGE_MAPCOUNT_RESERVE", -0x10000),
]


@pytest.mark.parametrize(
    ("kernel", "value", "kind"),
    [
        (OtherKernel("5.10.0", "mem_cgroup"), 0xFFFFFBFF, "table"),
        (OtherKernel("5.10.0", "mem_cgroup"), 0xFFFFFDFF, "kmemcg"),
        (OtherKernel("5.10.0", "mem_cgroup"), 0xFFFFF9FF, "kmemcg table"),
        (OtherKernel("5.10.0", "mem_cgroup"), 0xFFFFF7FF, "guard"),
        (OtherKernel("5.10.0", "memcg_data"), 0xFFFFFDFF, "table"),
        (OtherKernel("5.10.0"), 0xFFFFFBFF, "table"),
        (OtherKernel("5.11.0"), 0xFFFFFBFF, "guard"),
        (OtherKernel("6.1.0", "memcg_data"), 0xFFFFFDFF, "table"),
        (OtherKernel("6.1.0", "memcg_data"), 0xFFFFFF7F, "buddy"),
        (OtherKernel("6.1.0", "memcg_data"), 0xFFFFF7FF, None),
        (OtherKernel("6.9.0", "memcg_data", PAGE_HUGETLB_MAPCOUNT_VALUE=~0x800), 0xFFFFF7FF, "hugetlb"),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 0xBFFFFFFF, "buddy"),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 0xFDFF0020, "slab"),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 0xFFFFFFFF, None),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 0xFFFFFBFF, None),
        (OtherKernel("6.11.0", types=PAGETYPE_6_11), 3, None),
    ],
)
def test_page_types_of_other_kernels(kernel: Any, value: int, kind: str | None) -> None:
    assert page_type(kernel, value) == page_type(kernel, value - (1 << 32)) == kind


@pytest.mark.parametrize("name", PAGES)
def test_text_stays_within_60_columns(name: str, inspect: Inspect) -> None:
    page = inspect(name, PAGES[name])
    out = io.StringIO()
    write_pages({"understood_as": "pfn", "pages": [page]}, out, 60)
    tables = ("Neighbours", "Rules that it breaks", "Of its zone")
    part = ""
    for line in out.getvalue().splitlines():
        part = line if not line or line.startswith((*tables, "What", "Words")) else part
        limit = 64 if part.startswith(tables) else 60
        assert len(line) <= limit, line
    assert "migratetype         None" not in out.getvalue()
    assert "None" not in out.getvalue()


def test_garbage_breaks_nothing(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry whose compound head and lists lead out of memory is shown as far as it can be."""
    kernel = Kernel(kernels(AMD64_HEALTHY).target, kernels(AMD64_HEALTHY).types)
    read = kernel.memmap.entry

    def torn(pfn: int, section: Any) -> bytes:
        return b"\x01" * len(read(pfn, section))

    monkeypatch.setattr(kernel.memmap, "entry", torn)
    assert describe(kernel, 0x2000, 0x2001)[0]["refcount"] == 0x01010101

    def no_head(page: Any) -> Any:
        raise FaultError("gone", 0)

    monkeypatch.setattr(struct_page, "compound_head", no_head)
    monkeypatch.setattr(struct_page, "PageCompound", lambda page: True)
    found = describe(kernel, 0x2000, 0x2001)[0]
    assert found["compound"] == {"part": "unknown"}
    assert found["owner"] == "unknown: the compound page that it is in can't be told"

    def gone(pfn: int, section: Any) -> bytes:
        raise FaultError("gone", 0)

    monkeypatch.setattr(kernel.memmap, "entry", gone)
    with pytest.raises(FaultError):
        describe(kernel, 0x2000, 0x2001)


def test_findings_of_a_page_are_those_of_the_scan(cli: Cli, unpacked: Unpacked, scanned: Scanned) -> None:
    for name, pfn in ((I386_HOLE, 0xA17B), (I386_HOLE, 0xA216), (AMD64_400M, 0x18FE0), (AMD64_400M, 0x1A000)):
        (page,) = cli("-c", unpacked(name), "page", hex(pfn), "--format", "json").json()["pages"]
        expected = [f for f in scanned(name).findings if f.start_pfn <= pfn < f.end_pfn]
        for found, of_zone in ((page["findings"], False), (page["zone_findings"], True)):
            assert [(f["rule"], f["start_pfn"], f["end_pfn"], f["message"]) for f in found] == [
                (f.rule, f.start_pfn, f.end_pfn, f.message) for f in expected if f.of_zone == of_zone
            ]


def test_owners_add_up_to_what_the_guest_counted(kernels: Kernels) -> None:
    """vm_stat[] of the guest had NR_ANON_MAPPED 29, NR_FILE_PAGES and NR_SHMEM 507, NR_PAGETABLE 89."""
    kernel = kernels(AMD64_400M)
    memory = kernel.memory
    counts: dict[str, int] = Counter()
    for chunk in kernel.memmap.chunks():
        section = memory.section(chunk.start_pfn)
        assert section is not None
        used = int_column(chunk, memory.layout, memory.layout.refcount_offset) != 0
        used &= ~chunk.reserved(memory.layout, chunk.start_pfn, chunk.end_pfn) & (chunk.state == INITIALIZED)
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
    entry = Entry(
        Object(kernel.prog, "struct page *", 0),
        (1,),
        0,
        refcount=1,
        mapcount=-1,
        mapping=mapping,
        kind=None,
        slab=False,
    )
    assert holder(kernel, replace(entry, **changes)) == expected


def test_mapcount_is_the_number_of_mappings(kernels: Kernels) -> None:
    kernel = kernels(AMD64_400M)
    memory = kernel.memory
    seen = set()
    for page in describe(kernel, 0x2B80, 0x2BC0):
        section = memory.section(page["pfn"])
        assert section is not None
        raw = read_entry(kernel, page["pfn"], section).mapcount
        assert page["mapcount"] == (None if page["page_type"] else raw + 1)
        seen.add(page["mapcount"])
    assert {0, 1} <= seen


def test_free_block_of_several_pageblocks_breaks_no_rule(cli: Cli, unpacked: Unpacked, kernels: Kernels) -> None:
    kernel = kernels(AMD64_HEALTHY)
    memory = kernel.memory
    for chunk in kernel.memmap.chunks():
        free = free_pages(chunk, memory.layout)
        large = free.at[free.order == memory.layout.max_order] if free is not None else []
        if len(large):
            pfn = chunk.start_pfn + int(large[0])
            break
    (page,) = cli("-c", unpacked(AMD64_HEALTHY), "page", hex(pfn), "--format", "json").json()["pages"]
    assert page["findings"] == []
