# SPDX-License-Identifier: LGPL-2.1-or-later
"""mminspect in a drgn session."""

from __future__ import annotations

import sys

import pytest
from drgn import Architecture, Platform, PlatformFlags, Program

import mminspect
from mminspect import scan
from mminspect.errors import MminspectError
from tests.conftest import Scanned, Unpacked
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, AMD64_NUMA, ARM64, S390X, summary, without_times


def plain(path: object) -> Program:
    """Open a vmcore as drgn alone does."""
    prog = Program()
    prog.set_core_dump(str(path))
    return prog


@pytest.mark.parametrize("name", [AMD64_400M, AMD64_NUMA, ARM64, S390X])
def test_scan_of_a_plain_program_is_that_of_the_command_line(name: str, unpacked: Unpacked, scanned: Scanned) -> None:
    report = scan(plain(unpacked(name)))
    assert summary(report.findings) == summary(scanned(name).findings)
    assert without_times(report.as_dict()) == without_times(scanned(name).as_dict())


def test_scan_twice_gives_the_same(unpacked: Unpacked) -> None:
    prog = plain(unpacked(AMD64_HEALTHY))
    assert scan(prog).findings == scan(prog).findings


def test_scan_takes_rules_and_pageblock_order(unpacked: Unpacked) -> None:
    prog = plain(unpacked(AMD64_400M))
    assert {f.rule for f in scan(prog, select=["zone-id"]).findings} == {"zone-id"}
    assert {f.rule for f in scan(prog, ignore=["zone-id"]).findings} == {"zone-span", "mixed-zone"}
    assert scan(prog, pageblock_order=10).target["pageblock_order"] == 10


def test_finding_counts_its_pages(unpacked: Unpacked) -> None:
    report = scan(plain(unpacked(AMD64_400M)), select=["mixed-zone"])
    assert [f.pages for f in report.findings] == [512]
    assert (report.count("error"), report.count("note")) == (1, 1)


def test_scan_of_a_program_that_is_no_kernel_is_refused() -> None:
    flags = PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN
    with pytest.raises(MminspectError, match="not a Linux kernel"):
        scan(Program(Platform(Architecture.X86_64, flags)))


def test_scan_of_a_rule_that_is_none_is_refused(unpacked: Unpacked) -> None:
    with pytest.raises(MminspectError, match="banana"):
        scan(plain(unpacked(AMD64_HEALTHY)), select=["banana"])


def test_package_names_what_it_offers() -> None:
    assert set(mminspect.__all__) >= {"scan", "__version__"}
    assert sys.modules["mminspect"].scan is scan
