# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rule device-memory: on device memory made by hand, and on a stored vmcore whose device was initialized in part."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from drgn import Object
from drgn.helpers.linux.xarray import xa_for_each

from mminspect.commands.triage.in_memory import match
from mminspect.findings import Finding
from mminspect.kernel import device
from mminspect.memorymap.device import DevicePages, Stretch
from mminspect.memorymap.layout import PAGEBLOCK_BITS
from mminspect.rules.quirks import known_quirk
from mminspect.rules.registry import all_rules, select_rules
from mminspect.walk.engine import Scan
from mminspect.walk.scan import scan
from tests.conftest import Cli, Edited, Kernels, Scanned, Unpacked
from tests.kit.handmade import memory_map, nothing_known, zone
from tests.kit.structpages import LAYOUT
from tests.kit.support import AMD64_DEVDAX, AMD64_HEALTHY, CoreEditor, open_core

RULE = all_rules()["device-memory"]
START, END = 0x19000, 0x1D000
# Linux initializes two pages of memory for struct pages of each compound page of 2 MiB: 2 * 4096 / 64.
INITIALIZED, COMPOUND = 128, 512


def judge(**more: Any) -> list[Finding]:
    made = DevicePages(16, 32, 0, "generic", 8, 16, (), 0, 2, (), 0)
    memory = memory_map(zone(1, 0, 64), zone(4, 16, 16), layout=LAYOUT)
    memory = dataclasses.replace(memory, device=(dataclasses.replace(made, **more),))
    walk: Any = None
    return Scan(memory, walk, [RULE], nothing_known).findings_in([])


def test_device_memory_in_order() -> None:
    assert judge() == []


def test_pages_that_link_elsewhere() -> None:
    wrong = (Stretch(18, 24, LAYOUT.link(0, 1)), Stretch(26, 32, LAYOUT.link(0, 1)))
    (found,) = judge(elsewhere=wrong, pages_elsewhere=12)
    assert (found.severity, found.start_pfn, found.end_pfn, found.node, found.zone) == ("error", 18, 32, 0, "Device")
    assert found.message == (
        "12 of 16 struct pages of device memory (generic) [0x10, 0x20), in compound pages of 8 were not initialized: "
        "the first ones link to node 0 zone DMA32"
    )
    link = LAYOUT.link(0, 1)
    assert found.detail == {
        "problem": "uninitialized",
        "examined": 16,
        "wrong": 12,
        "ranges": [[18, 24, link], [26, 32, link]],
        "type": "generic",
        "compound": 8,
    }
    assert [found.covers(pfn) for pfn in (17, 18, 23, 24, 26, 31, 32)] == [False, True, True, False, True, True, False]


def test_pageblocks_that_are_not_movable() -> None:
    (found,) = judge(untyped=(Stretch(24, 32, 0),), blocks_untyped=1, kind=None, compound=1, cut=True)
    assert (found.severity, found.start_pfn, found.end_pfn) == ("warning", 24, 32)
    assert found.message == (
        "1 of 2 pageblocks of device memory [0x10, 0x20) are not MOVABLE, the first are UNMOVABLE; there is more of "
        "it, which was not looked at"
    )
    assert (found.detail["blocks"], found.detail["wrong"], found.detail["ranges"]) == (2, 1, [[24, 32, 0]])
    (found,) = judge(untyped=(Stretch(24, 32, 7),), blocks_untyped=1)
    assert "the first are 7" in found.message


def test_many_ranges_are_abridged() -> None:
    wrong = tuple(Stretch(pfn, pfn + 1, 0) for pfn in range(16, 50, 2))
    (found,) = judge(elsewhere=wrong, pages_elsewhere=17, end=64)
    assert (found.start_pfn, found.end_pfn, len(found.detail["ranges"])) == (16, 49, 16)
    assert found.named == tuple((pfn, pfn + 1) for pfn in range(16, 50, 2))


# The stored vmcore: a DAX device of 64 MiB in sections that have RAM too


def test_each_compound_page_has_128_struct_pages(scanned: Scanned, kernels: Kernels) -> None:
    (found,) = (f for f in scanned(AMD64_DEVDAX).findings if f.rule == RULE.id)
    count = (END - START) // COMPOUND
    assert (found.severity, found.detail["wrong"]) == ("error", count * (COMPOUND - INITIALIZED))
    assert (found.detail["examined"], found.detail["compound"]) == (END - START, COMPOUND)
    expected = [[pfn + INITIALIZED, pfn + COMPOUND, 1] for pfn in range(START, END, COMPOUND)]
    assert found.detail["ranges"] == expected[:16]
    assert (found.start_pfn, found.end_pfn, found.zone) == (START + INITIALIZED, END, "Device")
    (read,) = kernels(AMD64_DEVDAX).memory_for(device=True).device
    assert [list(stretch) for stretch in read.elsewhere] == expected
    assert (read.blocks, read.blocks_untyped, read.cut) == (count, 0, False)


def pagemap(prog: Any) -> Object:
    return next(
        Object(prog, "struct dev_pagemap", address=e.value_())
        for _, e in xa_for_each(prog["pgmap_array"].address_of_())
    )


def problems(editor: CoreEditor) -> dict[str, Finding]:
    found = scan(open_core(editor.path), [RULE]).findings
    return {finding.detail["problem"]: finding for finding in found}


@pytest.fixture
def copy(edited: Edited) -> CoreEditor:
    return edited(AMD64_DEVDAX)


def link_to_device(editor: CoreEditor, prog: Any, start: int, end: int) -> None:
    """Give struct pages what __init_zone_device_page() does, as far as the rule looks."""
    flags = prog.type("struct page").member("flags").offset
    for pfn in range(start, end):
        address = prog["vmemmap"].value_() + pfn * 64 + flags
        value = int.from_bytes(editor.read(address, 8), "little")
        editor.write_word(address, value & ~(7 << 51) | 4 << 51)


def test_initialized_pages_are_not_found(copy: CoreEditor, kernels: Kernels) -> None:
    prog = kernels(AMD64_DEVDAX).prog
    for pfn in range(START, END - COMPOUND, COMPOUND):
        link_to_device(copy, prog, pfn + INITIALIZED, pfn + COMPOUND)
    found = problems(copy)["uninitialized"]
    last = END - COMPOUND + INITIALIZED
    assert (found.detail["ranges"], found.detail["wrong"]) == ([[last, END, 1]], COMPOUND - INITIALIZED)
    link_to_device(copy, prog, last, END)
    assert problems(copy) == {}
    # A node that has no such zone.
    address = prog["vmemmap"].value_() + (START + 700) * 64
    copy.write_word(address, int.from_bytes(copy.read(address, 8), "little") | 1 << 54)
    assert problems(copy)["uninitialized"].detail["ranges"] == [[START + 700, START + 701, 1 << 3 | 4]]


def test_planted_migratetype(copy: CoreEditor, kernels: Kernels) -> None:
    """The bits of a pageblock in the middle, and of the first and the last one of the device."""
    prog = kernels(AMD64_DEVDAX).prog
    for pfn in (START, START + 7 * COMPOUND, END - COMPOUND):
        usage = prog["mem_section"][0][pfn >> 15].usage
        address = usage.pageblock_flags.address_ + (pfn & 0x7FFF) // COMPOUND
        assert copy.read(address, 1) == b"\1"
        copy.write(address, b"\0")
    found = problems(copy)["migratetype"]
    assert (found.severity, found.detail["blocks"], found.detail["wrong"]) == ("warning", 32, 3)
    assert found.detail["ranges"] == [[pfn, pfn + COMPOUND, 0] for pfn in (START, START + 7 * COMPOUND, END - COMPOUND)]


@pytest.mark.parametrize("why", ["taken away", "not done"])
def test_memory_that_comes_or_goes_is_not_judged(why: str, copy: CoreEditor, kernels: Kernels) -> None:
    there = pagemap(kernels(AMD64_DEVDAX).prog)
    if why == "taken away":
        pointer = there.ref.percpu_count_ptr
        copy.write_word(pointer.address_, pointer.value_() | 2)
    else:
        copy.write(there.nr_range.address_, bytes(4))
    assert problems(copy) == {}


def test_memmap_of_the_device_itself_is_not_judged(copy: CoreEditor, kernels: Kernels) -> None:
    there = pagemap(kernels(AMD64_DEVDAX).prog)
    copy.write(there.flags.address_, b"\1")
    copy.write_word(there.altmap.reserve.address_, 100)
    copy.write_word(there.altmap.free.address_, 200)
    found = problems(copy)["uninitialized"]
    assert found.detail["examined"] == END - START - 300
    assert found.detail["ranges"][0] == [START + 300, START + COMPOUND, 1]
    assert found.detail["wrong"] == 32 * 384 - (300 - INITIALIZED)


def test_bound(unpacked: Unpacked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MAX_PAGES", 1000)
    (found,) = scan(open_core(unpacked(AMD64_DEVDAX)), [RULE]).findings
    assert (found.detail["examined"], found.detail["wrong"]) == (1000, 384 + 1000 - 512 - 128)
    assert "there is more of it" in found.message


def test_unreadable_struct_pages_are_no_uninitialized_ones(copy: CoreEditor, kernels: Kernels) -> None:
    base = kernels(AMD64_DEVDAX).prog["vmemmap"].value_()
    copy.exclude(base + (START + 128) * 64, base + (START + 512) * 64)
    found = problems(copy)["uninitialized"]
    assert (found.detail["examined"], found.detail["wrong"]) == (END - START - 384, 31 * 384)


def test_page_says_what_is_wrong(cli: Cli, unpacked: Unpacked) -> None:
    path = unpacked(AMD64_DEVDAX)
    (page,) = cli("-c", path, "page", "--format", "json", hex(START + 200)).json()["pages"]
    assert [f["rule"] for f in page["findings"]] == ["device-memory"]
    assert page["link"]["zone"] == "DMA32"
    (page,) = cli("-c", path, "page", "--format", "json", hex(START + 5)).json()["pages"]
    assert (page["findings"], page["link"]["zone"]) == ([], "Device")
    assert "Rules that it breaks\nseverity" in cli("-c", path, "page", hex(START + 200)).out
    assert "which found nothing here" in cli("-c", path, "page", hex(START + 5)).out


def test_nothing_is_looked_for_where_no_zone_device_is(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("it was looked for")

    monkeypatch.setattr("mminspect.kernel.kernel.device_memory", refuse)
    assert kernels(AMD64_HEALTHY).memory_for(device=True).device == ()
    assert RULE.id in {rule.id for rule in select_rules()}


def test_both_bugs_are_known(scanned: Scanned, kernels: Kernels, copy: CoreEditor) -> None:
    (found,) = (f for f in scanned(AMD64_DEVDAX).findings if f.rule == RULE.id)
    assert found.known is not None
    assert (found.known["id"], found.known["harmful"]) == ("device-tail-pages", True)
    prog, memory = kernels(AMD64_DEVDAX).prog, kernels(AMD64_DEVDAX).memory
    (bug,) = match([found], memory, ["frob"])
    assert (bug["id"], bug["status"]) == ("device-tail-pages", "memory shows it")
    assert match([dataclasses.replace(found, detail={**found.detail, "compound": 1})], memory, []) == []
    usage = prog["mem_section"][0][START >> 15].usage
    copy.write(usage.pageblock_flags.address_ + (START & 0x7FFF) // COMPOUND + 1, b"\0")
    types = problems(copy)["migratetype"]
    assert types.known is not None
    assert (types.known["id"], types.known["harmful"]) == ("device-pageblock-types", False)
    assert known_quirk(dataclasses.replace(types, detail={**types.detail, "compound": 1}), memory) is None
    assert known_quirk(dataclasses.replace(types, detail={**types.detail, "compound": None}), memory) is None


def test_pageblocks_of_unknown_bits_are_not_judged(kernels: Kernels) -> None:
    kernel = kernels(AMD64_DEVDAX)
    layout = dataclasses.replace(kernel.memory.layout, unknown=((PAGEBLOCK_BITS, "they are elsewhere"),))
    memory = dataclasses.replace(kernel.memory, layout=layout)
    (pages,) = device.device_pages(kernel.prog, memory, kernel.memmap, kernel.device_memory)
    assert (pages.blocks, pages.blocks_untyped, pages.pages_elsewhere) == (0, 0, 32 * 384)
