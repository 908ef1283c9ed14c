# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalogue of rules, and what the command rules prints of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from mminspect.rules.registry import all_rules, examples
from tests.conftest import Cli, Scanned, Unpacked
from tests.examples import EXAMPLES, make
from tests.support import NAMES, without_consequences

CORE = ("bitmap-bounds", "contiguous", "mixed-zone", "uninitialized", "unreadable", "zone-id", "zone-span")

# Commits of Linux whose hash and title were seen in mainline. No other may be printed.
VERIFIED = {
    "0740a50b9baa": "mm/page_alloc.c: refactor initialization of struct page for holes in memory layout",
    "122e093c1734": "mm/page_alloc: fix memory map initialization for descending nodes",
    "1f90a3477df3": "mm: teach pfn_to_online_page() about ZONE_DEVICE section collisions",
    "2ebc3b68ac40": "mm/mm_init: init holes in the end of the memory map for FLATMEM",
    "3de360c3fdb3": None,
    "4b094b7851bf": "mm/page_alloc.c: initialize memmap of unavailable memory directly",
    "5ec8e8ea8b77": "mm/sparsemem: fix race in accessing memory_section->usage",
    "61167ad5fecd": "mm: pass nid to reserve_bootmem_region()",
    "6a9531c3a880": "memblock: fix crash when reserved memory is not added to memory",
    "6b0868c820ff": "mm/compaction.c: correct zone boundary handling when resetting pageblock skip hints",
    "6e2b7044c199": "mm, compaction: make fast_isolate_freepages() stay within zone",
    "73a6e474cb37": "mm: memmap_init: iterate over memblock regions rather that check each PFN",
    "787af64d05cd": "mm: page_alloc: validate buddy before check its migratetype.",
    "7b086755fb8c": "mm: page_alloc: fix CMA and HIGHATOMIC landing on the wrong buddy list",
    "859a85ddf90e": "mm: remove pfn_valid_within() and CONFIG_HOLES_IN_ZONE",
    "864b75f9d6b0": None,
    "907ec5fca3dc": "mm: zero remaining unavailable struct pages",
    "a4b0bf6a40f3": "x86/efi: defer freeing of boot services memory",
    "a4d5613c4dc6": "arm: extend pfn_valid to take into account freed memory map alignment",
    "b3d40a2b6d10": "mm: enforce pageblock_order < MAX_ORDER",
    "b92df1de5d28": "mm: page_alloc: skip over regions of invalid pfns where possible",
    "b943f045a9af": "mm/sparse: fix kernel crash with pfn_section_valid check",
    "be21b32afe47": "mm, compaction: fix fast_isolate_around() to stay within boundaries",
    "d3921cb8be29": "mm: fix initialization of struct page for holes in memory layout",
    "dc2da7b45ffe": "mm: memmap defer init doesn't work as expected",
    "e822969cab48": "mm/page_alloc.c: fix uninitialized memmaps on a partially populated last section",
    "f85086f95fa3": "mm: don't rely on system state to detect hot-plug operations",
}


@pytest.mark.parametrize("rule", CORE)
def test_rule_says_what_it_means_with_an_example(rule: str) -> None:
    found = all_rules()[rule]
    assert found.id == rule
    assert found.summary
    assert "\n" not in found.summary
    assert len(found.documentation.split()) > 60
    assert "Example: " in found.documentation
    module = importlib.import_module(f"mminspect.rules.{rule.replace('-', '_')}")
    assert found.documentation == module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_rule_describes_each_detail(name: str, scanned: Scanned) -> None:
    for finding in scanned(name).findings:
        documentation = all_rules()[finding.rule].documentation
        for key in without_consequences(finding).detail:
            assert f"``{key}``" in documentation or f"``detail.{key}``" in documentation, (finding.rule, key)


@pytest.mark.parametrize("rule", sorted(all_rules()))
def test_rule_names_verified_commits_only(rule: str) -> None:
    for commit in all_rules()[rule].commits:
        assert commit.hash in VERIFIED
        assert VERIFIED[commit.hash] in (None, commit.title)
        assert re.search(r"\(v\d\.\d+\)$", commit.what), commit


@pytest.mark.parametrize("rule", sorted(all_rules()))
def test_documentation_names_no_other_commit(rule: str) -> None:
    hashes = re.findall(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{12}\b", all_rules()[rule].documentation)
    assert set(hashes) <= set(VERIFIED)


def test_core_rules_are_all_there() -> None:
    assert set(CORE) <= set(all_rules())


@pytest.mark.parametrize("rule", [r for r in CORE if r != "unreadable"])
def test_rule_names_the_kernel_functions_it_endangers(rule: str) -> None:
    assert all(re.fullmatch(r"\w+", name) for name in all_rules()[rule].functions)
    assert all_rules()[rule].functions


def test_rules_lists_them_all(cli: Cli) -> None:
    done = cli("rules")
    assert (done.status, done.err) == (0, "")
    for rule in all_rules().values():
        assert rule.id in done.out
        assert rule.summary in done.out


@pytest.mark.parametrize("rule", sorted(all_rules()))
def test_rules_of_one_tells_all_about_it(rule: str, cli: Cli) -> None:
    done = cli("rules", rule)
    assert (done.status, done.err) == (0, "")
    found = all_rules()[rule]
    assert found.documentation.strip() in done.out
    assert all(name in done.out for name in found.functions)
    assert all(commit.hash in done.out and commit.title in done.out for commit in found.commits)


def test_rules_as_json(cli: Cli) -> None:
    data = cli("rules", "--format", "json").json()
    assert [rule["id"] for rule in data] == sorted(all_rules())
    assert all(set(rule) >= {"id", "summary", "documentation", "functions", "commits"} for rule in data)
    (one,) = cli("rules", "mixed-zone", "--format", "json").json()
    assert one in data


@pytest.mark.parametrize("rule", sorted(EXAMPLES))
def test_example_is_a_finding_of_its_vmcore(rule: str, unpacked: Unpacked, tmp_path: Path) -> None:
    copy = tmp_path / "core"
    copy.write_bytes(unpacked(EXAMPLES[rule].fixture).read_bytes())
    assert examples()[rule] == make(rule, copy), "run python -m tests.examples"


def test_every_rule_of_vmcores_has_an_example() -> None:
    assert set(examples()) == set(EXAMPLES) == set(all_rules()) - {"proc-disagrees"}


def test_rules_of_one_shows_its_example(cli: Cli) -> None:
    done = cli("rules", "free-list")
    assert "A finding in amd64-6.1-healthy.xz, where nr_free of order 10 was raised by one:\n  error 0x" in done.out
    assert cli("rules", "mixed-zone").out.count("A finding in i386-5.10-hole.xz:") == 1
    assert "A finding" not in cli("rules", "proc-disagrees").out
