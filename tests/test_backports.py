# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated backports and kernels of tomorrow: stored vmcores whose types were changed, or whose release lies.

What is changed consistently must make no difference. What isn't known must be refused in words, the kernel as a whole
or the rules concerned, and never be decoded by the rules of another kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mminspect.errors import LayoutError
from mminspect.kernel.kernel import Kernel
from tests.conftest import Edited, Kernels, Scanned
from tests.kit.btfedit import BtfEditor
from tests.kit.support import AMD64_400M, AMD64_HOTPLUG, AMD64_LOW_RAM, AMD64_NUMA, CoreEditor, open_core, scan_file

FLAGS = ("SECTION_HAS_MEM_MAP", "SECTION_IS_ONLINE", "SECTION_IS_EARLY", "SECTION_TAINT_ZONE_DEVICE")
Backport = Callable[[str], tuple[CoreEditor, BtfEditor]]


@pytest.fixture
def backport(edited: Edited, kernels: Kernels) -> Backport:
    """Give an editor of a copy of a stored vmcore, and one of its types."""

    def get(name: str) -> tuple[CoreEditor, BtfEditor]:
        editor = edited(name)
        address = kernels(name).types.btf_address
        assert address is not None
        return editor, BtfEditor(editor, address)

    return get


def move_section_flags(kernel: Kernel, editor: CoreEditor, types: BtfEditor) -> None:
    """Take SECTION_MARKED_PRESENT away and close the gap, as Linux 7.4 does, in the types and in memory."""
    prog = kernel.prog
    last = prog["SECTION_MAP_LAST_BIT"].value_()
    types.rename("SECTION_MARKED_PRESENT_BIT", "XXXXXXX_MARKED_PRESENT_BIT")
    for name in FLAGS:
        types.set_enumerator(f"{name}_BIT", prog[f"{name}_BIT"].value_() - 1)
    per_root = prog["SECTIONS_PER_ROOT"].value_()
    mask = (1 << last) - 1
    for entry in kernel.memory.mem_sections:
        section = prog["mem_section"][entry.nr // per_root][entry.nr % per_root]
        address = section.section_mem_map.address_
        assert address is not None
        value = section.section_mem_map.value_()
        editor.write_word(address, value & ~mask | (value & mask) >> 1)


def comparable(report: Any) -> list[dict[str, Any]]:
    return [finding.as_dict() for finding in report.findings]


@pytest.mark.parametrize("name", [AMD64_400M, AMD64_LOW_RAM, AMD64_NUMA])
def test_section_flags_of_7_4_make_no_difference(
    name: str, backport: Backport, kernels: Kernels, scanned: Scanned
) -> None:
    editor, types = backport(name)
    move_section_flags(kernels(name), editor, types)
    assert comparable(scan_file(editor.path)) == comparable(scanned(name))


@pytest.mark.parametrize("name", ["SECTION_HAS_MEM_MAP", "SECTION_IS_ONLINE", "SECTION_IS_EARLY", "SECTION_MAP_LAST"])
def test_kernel_without_a_needed_section_flag_is_refused(
    name: str, backport: Backport, refused: Callable[[object], str]
) -> None:
    editor, types = backport(AMD64_400M)
    types.rename(f"{name}_BIT", f"X{name[1:]}_BIT")
    assert f"not {name}_BIT" in refused(editor.path)


def test_kernel_without_section_flags_is_not_taken_for_an_old_one(
    backport: Backport, refused: Callable[[object], str]
) -> None:
    editor, types = backport(AMD64_400M)
    for name in (*FLAGS, "SECTION_MARKED_PRESENT", "SECTION_MAP_LAST"):
        types.rename(f"{name}_BIT", f"X{name[1:]}_BIT")
    # Its release says that it is old.
    editor.replace_in_notes(b"OSRELEASE=6.12.", b"OSRELEASE=5.10.")
    assert "name no section flags" in refused(editor.path)


def test_old_kernel_whose_release_lies_is_still_read(edited: Edited, scanned: Scanned) -> None:
    editor = edited(AMD64_HOTPLUG)
    editor.replace_in_notes(b"OSRELEASE=5.10.", b"OSRELEASE=7.99.")
    report = scan_file(editor.path)
    assert report.target["tried"] == "no"
    before = scanned(AMD64_HOTPLUG)
    assert [(f.rule, f.start_pfn, f.end_pfn) for f in report.findings] == [
        (f.rule, f.start_pfn, f.end_pfn) for f in before.findings
    ]


def judged_nothing(report: Any) -> dict[str, str]:
    """Get the rules that say that they judged nothing, and why."""
    return {f.rule: f.message.split("judged nothing: ")[1] for f in report.findings if "judged nothing" in f.message}


def others(report: Any, refusing: dict[str, str]) -> list[tuple[Any, ...]]:
    return [(f.rule, f.start_pfn, f.end_pfn, f.message) for f in report.findings if f.rule not in refusing]


@pytest.mark.parametrize(
    ("change", "rules", "why"),
    [
        (
            # Any complete type will do for its existence.
            lambda types: types.rename("file_lock_operations", "pageblock_data"),
            {"bitmap-bounds", "free-list", "migratetype"},
            "struct pageblock_data instead",
        ),
        (
            lambda types: types.rename("file_lock_operations", "superpageblock"),
            {"free-list", "per-cpu-list", "zone-pages"},
            "superpageblocks",
        ),
        (
            lambda types: types.rename_member("zone", "contiguous", "order"),
            {"contiguous"},
            "no contiguous",
        ),
        (
            lambda types: types.rename("PB_migrate_skip", "PB_migrate_0000"),
            set(),
            "",
        ),
        (
            lambda types: types.set_enumerator("PB_migrate_skip", 2),
            {"bitmap-bounds", "free-list", "migratetype"},
            "another order",
        ),
        (
            lambda types: types.rename("MIGRATE_PCPTYPES", "MIGRATE_XXXTYPES"),
            {"per-cpu-list"},
            "no MIGRATE_PCPTYPES",
        ),
        (
            lambda types: types.rename("_flags_1", "_flags_9"),
            {"compound-page"},
            "order of a compound page",
        ),
    ],
)
def test_rules_that_do_not_know_a_kernel_say_so_and_the_others_go_on(
    change: Callable[[BtfEditor], None], rules: set[str], why: str, backport: Backport, scanned: Scanned
) -> None:
    editor, types = backport(AMD64_400M)
    change(types)
    report = scan_file(editor.path)
    refusing = judged_nothing(report)
    assert set(refusing) == rules
    assert all(why in text for text in refusing.values())
    assert {f.severity for f in report.findings if f.rule in refusing} <= {"note"}
    before = scanned(AMD64_400M)
    assert [row[:3] for row in others(report, refusing)] == [row[:3] for row in others(before, refusing)]


def test_kernel_of_tomorrow_says_that_it_was_not_tried(edited: Edited, scanned: Scanned) -> None:
    assert scanned(AMD64_400M).target["tried"] == "yes"
    editor = edited(AMD64_400M)
    editor.replace_in_notes(b"OSRELEASE=6.12.", b"OSRELEASE=6.14.")
    assert scan_file(editor.path).target["tried"] == "near"
    editor.replace_in_notes(b"OSRELEASE=6.14.", b"OSRELEASE=7.40.")
    assert scan_file(editor.path).target["tried"] == "no"


def test_huge_pages_under_another_name_leave_the_pageblock_order_open(backport: Backport) -> None:
    editor, types = backport(AMD64_400M)
    types.rename("THP_FAULT_ALLOC", "THP_FAULT_XXXXX")
    with pytest.raises(LayoutError, match="--pageblock-order"):
        _ = open_core(editor.path).memory


def test_zone_without_free_lists_is_refused(backport: Backport, refused: Callable[[object], str]) -> None:
    editor, types = backport(AMD64_400M)
    types.rename_member("zone", "free_area", "order")
    assert "no sensible free_area" in refused(editor.path)
