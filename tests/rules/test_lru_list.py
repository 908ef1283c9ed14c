# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule lru-list: on lists made by hand, in stored vmcores, and with faults planted there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from drgn import Object, Program
from drgn.helpers.linux.list import list_for_each_entry

from mminspect.findings import Finding
from mminspect.memmap.chunk import Chunk
from mminspect.memmap.lru import MAX_FOLLOWED, read_heads, with_lru_lists
from mminspect.memorymap.lru import LruCount, LruFault, LruList, LruLists, Lruvec
from mminspect.memorymap.sections import Section
from mminspect.memorymap.zones import Node
from mminspect.rules.registry import all_rules, select_rules
from mminspect.walk.engine import Scan
from mminspect.walk.scan import scan
from tests.conftest import Cli, Edited, Kernels, Opened, Scanned, Unpacked
from tests.kit.handmade import memory_map, nothing_known, zone
from tests.kit.structpages import LAYOUT
from tests.kit.support import AMD64_HEALTHY, CoreEditor, open_core

RULE = all_rules()["lru-list"]
CLASSIC, GENERATIONS = "amd64-6.1-lru", "amd64-7.3-lru-gen"
BOTH = (CLASSIC, GENERATIONS)
LISTS = ("inactive anon", "active anon", "inactive file", "active file")


class Vmcore(NamedTuple):
    """A copy of a stored vmcore, and the program of the untouched one."""

    editor: CoreEditor
    prog: Program

    def lru(self, pfn: int) -> int:
        """Get the address of a page's ``lru``."""
        page = self.prog.type("struct page")
        return int(self.prog["vmemmap"].value_()) + pfn * page.size + page.member("lru").offset  # type: ignore[operator]

    def page(self, pfn: int, member: str) -> int:
        """Get the address of a member of a struct page."""
        page = self.prog.type("struct page")
        return self.lru(pfn) - page.member("lru").offset + page.member(member).offset

    def flags(self, pfn: int) -> int:
        return int.from_bytes(self.editor.read(self.page(pfn, "flags"), 8), "little")

    def problems(self) -> dict[str, Finding]:
        """Scan the copy."""
        found = scan(open_core(self.editor.path), [RULE]).findings
        by_problem = {finding.detail["problem"]: finding for finding in found}
        assert sum(finding.detail["problem"] != "count" for finding in found) == len(by_problem.keys() - {"count"})
        return by_problem


@pytest.fixture
def copy(edited: Edited, opened: Opened) -> Any:
    return lambda name: Vmcore(edited(name), opened(name)[0].prog)


def memcgs(prog: Program, css: Object) -> Iterator[int]:
    """Find the memory cgroups below one."""
    offset = prog.type("struct mem_cgroup").member("css").offset
    yield css.address_ - offset  # type: ignore[operator]
    for child in list_for_each_entry("struct cgroup_subsys_state", css.children.address_of_(), "sibling"):
        yield from memcgs(prog, child[0])


def lruvecs(prog: Program) -> Iterator[tuple[Object, Object]]:
    """Find the lruvecs of node 0, with the ``struct mem_cgroup_per_node`` that each is in, by drgn alone."""
    offset = prog.type("struct mem_cgroup").member("nodeinfo").offset
    for memcg in memcgs(prog, prog["root_mem_cgroup"].css):
        per_node = Object(prog, "struct mem_cgroup_per_node", address=prog.read_word(memcg + offset))
        yield per_node, per_node.lruvec


def heads(lruvec: Object) -> Iterator[tuple[str, Object]]:
    for index, name in enumerate(LISTS):
        yield name, lruvec.lists[index]
    for index, head in enumerate(lruvec.lrugen.folios):
        yield f"generation {index // 10} {('anon', 'file')[index // 5 % 2]}", head


def on_lists(prog: Program) -> dict[tuple[int, str], list[int]]:
    """Follow all lists by drgn alone: pfns by (address of the lruvec, list)."""
    result: dict[tuple[int, str], list[int]] = {}
    base = prog["vmemmap"].value_()
    size = prog.type("struct page").size
    assert size is not None
    for _, lruvec in lruvecs(prog):
        assert lruvec.address_ is not None
        for name, head in heads(lruvec):
            pages = list_for_each_entry("struct page", head.address_of_(), "lru")
            found = [(page.value_() - base) // size for page in pages]
            if found:
                result.setdefault((lruvec.address_, name), []).extend(found)
    return result


@pytest.mark.parametrize("name", BOTH)
def test_lists_are_those_that_drgn_follows(name: str, kernels: Kernels) -> None:
    kernel = kernels(name)
    expected = on_lists(kernel.prog)
    lru = with_lru_lists(kernel.target, kernel.memory).lru
    assert lru is not None
    assert lru.missing is None
    found: dict[tuple[int, str], list[int]] = {}
    for lruvec in lru.lruvecs:
        for item in lruvec.lists:
            found.setdefault((lruvec.address, item.name), []).extend(item.pfns.tolist())
    assert found == expected
    assert sum(map(len, found.values())) > 1000
    # The root, the two of the guest's shell, and the node's own.
    assert len({lruvec.address for lruvec in lru.lruvecs}) == 4
    kinds = {name.split()[0] for _, name in found}
    assert kinds == ({"generation"} if name == GENERATIONS else {"active", "inactive"})


@pytest.mark.parametrize("name", BOTH)
def test_counts_are_compared_and_right(name: str, kernels: Kernels) -> None:
    kernel = kernels(name)
    lru = with_lru_lists(kernel.target, kernel.memory).lru
    assert lru is not None
    counts = [count for lruvec in lru.lruvecs for count in lruvec.counts]
    assert [count for count in counts if count.stated != count.counted] == []
    assert sum(count.stated for count in counts) > 1000
    assert scan(kernel, [RULE]).findings == []


def a_list(vmcore: Vmcore) -> tuple[int, str, list[int]]:
    """Get the longest list."""
    (lruvec, name), pfns = max(on_lists(vmcore.prog).items(), key=lambda item: len(item[1]))
    return lruvec, name, pfns


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("value", [0, 0xDEAD000000000100, 8])
def test_planted_link(name: str, value: int, copy: Any) -> None:
    vmcore = copy(name)
    lruvec, which, pfns = a_list(vmcore)
    vmcore.editor.write_word(vmcore.lru(pfns[5]), value)
    found = vmcore.problems()
    assert set(found) == {"link"}
    finding = found["link"]
    assert (finding.severity, finding.start_pfn, finding.end_pfn) == ("error", pfns[5], pfns[5] + 1)
    assert (finding.node, finding.zone) == (0, None)
    assert f"pfn {pfns[5]:#x} is followed by {value:#x}" in finding.message
    detail = {key: value for key, value in finding.detail.items() if key not in ("consequences", "memcg")}
    assert detail == {
        "problem": "link",
        "lruvec": lruvec,
        "list": which,
        "locked": False,
        "pages": 1,
        "pfns": [pfns[5]],
        "value": value,
    }
    assert finding.detail["consequences"]


@pytest.mark.parametrize("name", BOTH)
def test_planted_prev(name: str, copy: Any) -> None:
    vmcore = copy(name)
    _, _, pfns = a_list(vmcore)
    vmcore.editor.write_word(vmcore.lru(pfns[7]) + 8, vmcore.lru(pfns[2]))
    found = vmcore.problems()
    assert {problem: f.detail["pfns"] for problem, f in found.items()} == {"prev": [pfns[7]]}
    vmcore.editor.write_word(vmcore.lru(pfns[7]) + 8, vmcore.lru(pfns[6]))
    assert vmcore.problems() == {}


@pytest.mark.parametrize("name", BOTH)
def test_planted_cycle(name: str, copy: Any) -> None:
    vmcore = copy(name)
    _, _, pfns = a_list(vmcore)
    vmcore.editor.write_word(vmcore.lru(pfns[9]), vmcore.lru(pfns[4]))
    found = vmcore.problems()
    assert {problem: (f.detail["pfns"], f.detail["value"]) for problem, f in found.items()} == {
        "cycle": ([pfns[9]], pfns[4]),
    }
    # A page that leads back to where the list came from, and forth to one that it had.
    vmcore.editor.write_word(vmcore.lru(pfns[4]) + 8, vmcore.lru(pfns[9]))
    found = vmcore.problems()
    assert {problem: f.detail["pfns"] for problem, f in found.items()} == {"prev": [pfns[4]], "cycle": [pfns[9]]}


@pytest.mark.parametrize("name", BOTH)
def test_page_taken_off_by_nobody_is_lost(name: str, copy: Any) -> None:
    vmcore = copy(name)
    lruvec, _, pfns = a_list(vmcore)
    vmcore.editor.write_word(vmcore.lru(pfns[3]), vmcore.lru(pfns[5]))
    vmcore.editor.write_word(vmcore.lru(pfns[5]) + 8, vmcore.lru(pfns[3]))
    found = vmcore.problems()
    assert set(found) == {"count", "lost"}
    assert (found["lost"].start_pfn, found["lost"].detail["pages"]) == (pfns[4], 1)
    assert found["lost"].detail["pfns"] == [pfns[4]]
    assert found["count"].detail["count"] == found["count"].detail["counted"] + 1
    assert (found["count"].zone, found["count"].detail["zone"]) == ("DMA32", 1)
    # Who takes it off at this moment has cleared PG_lru, and holds the lock when it is unlinked.
    lock = Object(vmcore.prog, "struct lruvec", address=lruvec).lru_lock.address_
    vmcore.editor.write(lock, b"\1")
    assert vmcore.problems() == {}


@pytest.mark.parametrize("name", BOTH)
def test_planted_count(name: str, copy: Any) -> None:
    vmcore = copy(name)
    lruvec, which, pfns = a_list(vmcore)
    per_node = next(per_node for per_node, other in lruvecs(vmcore.prog) if other.address_ == lruvec)
    if name == CLASSIC:
        # Zone DMA32 is 1, and there are five lists.
        there = per_node.lru_zone_size[5 + LISTS.index(which)]
    else:
        _, number, kind = which.split()
        there = per_node.lruvec.lrugen.nr_pages[int(number) * 10 + 5 * (kind == "file") + 1]
    vmcore.editor.write_word(there.address_, there.value_() + 3)
    found = vmcore.problems()
    assert set(found) == {"count"}
    assert found["count"].detail["count"] - found["count"].detail["counted"] == 3
    assert found["count"].detail["counted"] >= len(pfns) - 5
    assert found["count"].detail["pfns"] == []


def test_generations_are_counted_together(copy: Any) -> None:
    vmcore = copy(GENERATIONS)
    lruvec, _, _ = a_list(vmcore)
    counts = Object(vmcore.prog, "struct lruvec", address=lruvec).lrugen.nr_pages
    first = counts[1]
    vmcore.editor.write_word(first.address_, (first.value_() - 7) % (1 << 64))
    vmcore.editor.write_word(counts[11].address_, counts[11].value_() + 7)
    assert vmcore.problems() == {}


def test_planted_flags_of_another_list(copy: Any) -> None:
    vmcore = copy(CLASSIC)
    _, _, pfns = a_list(vmcore)
    active = 1 << vmcore.prog["PG_active"].value_()
    flags = vmcore.flags(pfns[8]) ^ active
    vmcore.editor.write_word(vmcore.page(pfns[8], "flags"), flags)
    found = vmcore.problems()
    assert {problem: (f.detail["pfns"], f.detail["value"]) for problem, f in found.items()} == {
        "list": ([pfns[8]], flags)
    }
    # Who is about to move it has cleared PG_lru.
    lru = 1 << vmcore.prog["PG_lru"].value_()
    vmcore.editor.write_word(vmcore.page(pfns[8], "flags"), flags & ~lru)
    assert vmcore.problems() == {}


def test_generation_lists_are_of_one_type_and_zone(copy: Any) -> None:
    vmcore = copy(GENERATIONS)
    _, which, pfns = a_list(vmcore)
    assert which.endswith("anon")
    active, anon = (1 << vmcore.prog[name].value_() for name in ("PG_active", "PG_swapbacked"))
    flags = vmcore.flags(pfns[8])
    # A page's PG_active says nothing there.
    vmcore.editor.write_word(vmcore.page(pfns[8], "flags"), flags | active)
    assert vmcore.problems() == {}
    vmcore.editor.write_word(vmcore.page(pfns[8], "flags"), flags & ~anon)
    assert vmcore.problems()["list"].detail["pfns"] == [pfns[8]]
    # Zone 0 instead of 1. It is counted there, too.
    vmcore.editor.write_word(vmcore.page(pfns[8], "flags"), flags & ~(1 << 51))
    assert vmcore.problems()["list"].detail["pfns"] == [pfns[8]]


def test_planted_node(copy: Any) -> None:
    vmcore = copy(CLASSIC)
    _, _, pfns = a_list(vmcore)
    vmcore.editor.write_word(vmcore.page(pfns[2], "flags"), vmcore.flags(pfns[2]) | 1 << 54)
    found = vmcore.problems()
    assert found["node"].detail["pfns"] == [pfns[2]]
    assert "links to node 1 zone id 1" in found["node"].message


def test_free_page_on_a_list(copy: Any) -> None:
    vmcore = copy(CLASSIC)
    _, _, pfns = a_list(vmcore)
    lru = 1 << vmcore.prog["PG_lru"].value_()
    flags = vmcore.flags(pfns[6])
    refcount = vmcore.editor.read(vmcore.page(pfns[6], "_refcount"), 4)
    vmcore.editor.write(vmcore.page(pfns[6], "_refcount"), bytes(4))
    # Who frees it waits for the lock.
    assert vmcore.problems() == {}
    vmcore.editor.write_word(vmcore.page(pfns[6], "flags"), flags & ~lru)
    found = vmcore.problems()
    assert {problem: f.detail["pfns"] for problem, f in found.items()} == {"free": [pfns[6]]}
    vmcore.editor.write(vmcore.page(pfns[6], "_refcount"), refcount)
    assert vmcore.problems() == {}
    vmcore.editor.write_word(vmcore.page(pfns[6], "flags"), flags)
    vmcore.editor.write(vmcore.page(pfns[6], "_mapcount"), (0xFFFFFF7F).to_bytes(4, "little"))
    found = vmcore.problems()
    assert found["free"].detail["pfns"] == [pfns[6]]
    assert found["free"].severity == "error"


def test_page_inside_a_free_block(copy: Any) -> None:
    vmcore = copy(CLASSIC)
    listed = on_lists(vmcore.prog)
    pfns = {pfn for found in listed.values() for pfn in found}
    pfn = next(pfn for pfn in sorted(pfns) if pfn & 1 and pfn - 1 not in pfns)
    vmcore.editor.write(vmcore.page(pfn - 1, "_mapcount"), (0xFFFFFF7F).to_bytes(4, "little"))
    vmcore.editor.write_word(vmcore.page(pfn - 1, "private"), 1)
    found = vmcore.problems()
    assert {problem: f.detail["pfns"] for problem, f in found.items()} == {"free": [pfn]}
    vmcore.editor.write_word(vmcore.page(pfn - 1, "private"), 0)
    assert vmcore.problems() == {}


@pytest.mark.parametrize("name", BOTH)
def test_lists_of_a_held_lock_are_notes(name: str, copy: Any) -> None:
    vmcore = copy(name)
    lruvec, _, pfns = a_list(vmcore)
    vmcore.editor.write_word(vmcore.lru(pfns[5]), 0)
    vmcore.editor.write(Object(vmcore.prog, "struct lruvec", address=lruvec).lru_lock.address_, b"\1")
    (found,) = vmcore.problems().values()
    assert (found.severity, found.detail["problem"], found.detail["locked"]) == ("note", "link", True)
    assert "may have been stopped while it changed the list" in found.message


def test_what_is_not_there_is_said_and_not_judged(copy: Any, cli: Cli, unpacked: Unpacked) -> None:
    vmcore = copy(CLASSIC)
    per_node, _ = list(lruvecs(vmcore.prog))[1]
    vmcore.editor.exclude(per_node.address_, per_node.address_ + vmcore.prog.type("struct mem_cgroup_per_node").size)
    (found,) = vmcore.problems().values()
    assert (found.severity, found.detail["problem"]) == ("warning", "unfinished")
    assert "the dump doesn't hold the struct lruvec" in found.message
    # What captures of before the rule was there don't have, and kernels without kallsyms in VMCOREINFO.
    vmcore = copy(CLASSIC)
    vmcore.editor.replace_in_notes(b"root_mem_cgroup", b"root_mem_cgroux")
    (found,) = vmcore.problems().values()
    assert "nothing tells where root_mem_cgroup is; --system-map or -s does" in found.message
    done = cli("-c", unpacked(AMD64_HEALTHY), "scan", "--select", "lru-list", "--format", "json")
    (only,) = done.json()["findings"]
    assert (only["severity"], only["detail"]["problem"]) == ("warning", "unfinished")


def test_bound(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vmcore = copy(CLASSIC)
    monkeypatch.setattr("mminspect.memmap.lru.MAX_FOLLOWED", 100)
    (found,) = vmcore.problems().values()
    assert f"more than {MAX_FOLLOWED} pages are on them".replace(str(MAX_FOLLOWED), "100") in found.message


def test_loop_of_memory_cgroups_ends(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vmcore = copy(CLASSIC)
    root = vmcore.prog["root_mem_cgroup"]
    child = root.css.children.next.value_()
    vmcore.editor.write_word(child, child)
    monkeypatch.setattr("mminspect.memmap.lru.MAX_MEMCGS", 50)
    problems = [f.detail["problem"] for f in scan(open_core(vmcore.editor.path), [RULE]).findings]
    assert problems == ["unfinished"]


def test_it_is_applied_on_request_only(cli: Cli, unpacked: Unpacked, scanned: Scanned) -> None:
    assert RULE.id not in {rule.id for rule in select_rules()}
    assert [rule.id for rule in select_rules(["lru-list"])] == ["lru-list"]
    assert "lru-list" not in scanned(CLASSIC).summary["by_rule"]
    done = cli("-c", unpacked(CLASSIC), "scan", "--select", "lru-list,zone-span", "--format", "json")
    assert set(done.json()["summary"]["by_rule"]) == {"lru-list", "zone-span"}
    assert done.json()["summary"]["by_rule"]["lru-list"]["findings"] == 0


# By hand


def listed(name: str, *pfns: int, **more: Any) -> LruList:
    made: dict[str, Any] = {"faults": (), "complete": True, **more}
    return LruList(name, np.array(pfns, np.uint64), **made)


def lruvec_of(*lists: LruList, node: int = 0, locked: bool | None = False, counts: Sequence[LruCount] = ()) -> Lruvec:
    return Lruvec(node, 0x1000 * (node + 1), None, locked, lists, tuple(counts))


PG_LRU, PG_UNEVICTABLE = 1 << 4, 1 << 7


def judge(lru: LruLists | None, with_lru: Sequence[int] = (), flags: int = PG_LRU) -> list[Finding]:
    """Judge lists of two nodes, of 64 pages each. The pages with PG_lru are given."""
    nodes = (Node(0, 0x1000, 0, 64, 64), Node(1, 0x2000, 64, 64, 64))
    memory = memory_map(zone(1, 0, 64), zone(1, 64, 64, node=1), layout=LAYOUT, nodes=nodes)
    memory = dataclasses.replace(memory, lru=lru)
    words = np.zeros((128, 8), np.uint64)
    link = np.array([LAYOUT.link(int(pfn >= 64), 1) for pfn in range(128)], np.uint32)
    words[:, 0] = [LAYOUT.flags_of_link(int(value)) for value in link]
    words[list(with_lru), 0] |= np.uint64(flags)
    words[:, LAYOUT.page.mapcount_offset // 8] = 0xFFFFFFFF
    section = Section(0, ((0, 128),), 0xFFFFEA0000000000, 0x1000)
    chunk = Chunk(0, words[:, 0], link, np.zeros(128, np.uint8), section, LAYOUT, words)
    walk: Any = None
    return Scan(memory, walk, [RULE], nothing_known).findings_in([chunk])


def test_pages_of_two_nodes() -> None:
    lists = LruLists((lruvec_of(listed("a", 3, 9)), lruvec_of(listed("a", 70), node=1)), None, 0)
    assert judge(lists, [3, 9, 70]) == []
    (found,) = judge(lists, [3, 9, 12, 70])
    assert (found.detail["problem"], found.node, found.detail["pfns"]) == ("lost", 0, [12])
    assert {f.node: f.detail["pfns"] for f in judge(lists, [1, 3, 70, 127])} == {0: [1], 1: [127]}
    assert [f.node for f in judge(lists, [*range(10, 40), 127])] == [0, 1]
    assert judge(lists, range(10, 40))[0].detail["pages"] == 30
    assert judge(lists, range(10, 40))[0].detail["pfns"] == list(range(10, 26))


def test_lost_pages_are_judged_only_where_all_is_known() -> None:
    held = LruLists((lruvec_of(listed("a", 3), locked=True), lruvec_of(node=1)), None, 0)
    assert [f.node for f in judge(held, [5, 70])] == [1]
    unknown = LruLists((lruvec_of(listed("a", 3), locked=None),), None, 0)
    assert judge(unknown, [5]) == []
    cut = LruLists((lruvec_of(listed("a", 3), listed("b", complete=False)),), None, 0)
    assert judge(cut, [5]) == []
    (found,) = judge(LruLists((lruvec_of(listed("a", 3)),), "the dump lacks them", 0), [5])
    assert (found.severity, found.detail) == ("warning", {"problem": "unfinished"})
    # Node 1 has no lruvec here: nothing is known of it.
    assert judge(LruLists((lruvec_of(listed("a", 3)),), None, 0), [70]) == []


def test_pages_that_are_on_no_list_by_design_are_not_lost() -> None:
    lists = LruLists((lruvec_of(listed("a", 3)),), None, PG_UNEVICTABLE)
    assert judge(lists, [5], PG_LRU | PG_UNEVICTABLE) == []
    assert [f.detail["pfns"] for f in judge(lists, [5], PG_LRU)] == [[5]]
    before_5_18 = LruLists((lruvec_of(listed("a", 3)),), None, 0)
    assert [f.detail["pfns"] for f in judge(before_5_18, [5], PG_LRU | PG_UNEVICTABLE)] == [[5]]


@pytest.mark.parametrize(
    ("problem", "pfn", "value", "text"),
    [
        ("link", None, 0x10, "its head is followed by 0x10, which is no struct page's lru"),
        ("prev", 5, 0x10, "pfn 0x5 has lru.prev 0x10, which isn't where the list came from"),
        ("cycle", 5, 7, "pfn 0x5 is followed by pfn 0x7, which the list had before"),
        ("free", 5, 0, "pfn 0x5 is free"),
        ("node", 5, 9, "pfn 0x5 links to node 1 zone DMA32"),
        ("list", 5, 0x30, "pfn 0x5 has flags of a page of another list (0x30)"),
    ],
)
def test_words(problem: str, pfn: int | None, value: int, text: str) -> None:
    for locked, severity in ((False, "error"), (True, "note"), (None, "note")):
        item = listed("inactive file", faults=(LruFault(problem, pfn, value),), complete=False)
        (found,) = judge(LruLists((lruvec_of(item, locked=locked),), None, 0))
        assert found.severity == severity
        assert found.message.startswith(f"node 0, LRU lists, inactive file: {text}")
        assert (found.start_pfn, found.end_pfn) == ((5, 6) if pfn is not None else (0, 64))


def test_generations_that_do_not_fit_the_zones_are_not_followed(kernels: Kernels) -> None:
    kernel = kernels(GENERATIONS)
    memory = dataclasses.replace(kernel.memory, layout=dataclasses.replace(kernel.memory.layout, max_nr_zones=7))
    lru = with_lru_lists(kernel.target, memory).lru
    assert lru is not None
    assert (lru.lruvecs, lru.missing) == ((), "the types don't tell where a struct lruvec has its lists")


@pytest.mark.parametrize("name", BOTH)
def test_planted_prev_of_the_head(name: str, copy: Any) -> None:
    vmcore = copy(name)
    lruvec, which, pfns = a_list(vmcore)
    for found, head in heads(Object(vmcore.prog, "struct lruvec", address=lruvec)):
        if found == which and head.next.value_() == vmcore.lru(pfns[0]):
            vmcore.editor.write_word(head.address_ + 8, vmcore.lru(pfns[0]))
    (finding,) = vmcore.problems().values()
    assert (finding.severity, finding.detail["problem"], finding.detail["pfns"]) == ("error", "prev", [])
    assert f"its head has lru.prev {vmcore.lru(pfns[0]):#x}" in finding.message
    assert (finding.start_pfn, finding.node) == (1, 0)


@pytest.mark.parametrize(("most", "found"), [(4096, []), (2, ["unfinished"])])
def test_capture_has_what_the_lists_begin_with(
    most: int, found: list[str], cli: Cli, unpacked: Unpacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of memory cgroups would be more ranges than a capture can have."""
    monkeypatch.setattr("mminspect.memmap.lru.MAX_CAPTURED", most)
    out = tmp_path / "capture"
    assert cli("-c", unpacked(CLASSIC), "capture", "-o", out).status == 0
    problems = [finding.detail["problem"] for finding in scan(open_core(out), [RULE]).findings]
    assert problems == found


def test_kernel_whose_nodes_have_no_such_lruvec_is_not_judged(kernels: Kernels) -> None:
    kernel = kernels(CLASSIC)

    class Prog:
        """A program whose ``struct pglist_data`` is that of Linux 5.4."""

        def __getattr__(self, name: str) -> Any:
            return getattr(kernel.prog, name)

        def type(self, name: str) -> Any:
            if name != "struct pglist_data":
                return kernel.prog.type(name)
            return SimpleNamespace(has_member=lambda member: member != "__lruvec")

    prog: Any = Prog()
    target = dataclasses.replace(kernel.target, prog=prog, direct=None)
    lru = with_lru_lists(target, kernel.memory).lru
    assert lru is not None
    assert (lru.lruvecs, lru.missing) == ((), "the types don't tell where a struct pglist_data has its struct lruvec")
    read_heads(target, kernel.memory)
