# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict on a log without a dump."""

from __future__ import annotations

import json

import pytest

from mminspect.commands.triage.alone import as_dict, judge_log
from mminspect.commands.triage.files import status_of
from mminspect.commands.triage.lines import read_text
from tests.commands.triage import faults
from tests.commands.triage.test_boot import BOOT
from tests.commands.triage.test_checks import BAD_PAGE_6_12, VM_BUG_ON_PAGE

BUSINESS = "".join(f"usb 1-{number}: new high-speed USB device\n" for number in range(9))


@pytest.mark.parametrize(
    ("text", "verdict", "status"),
    [
        (VM_BUG_ON_PAGE, "struct pages", 0),
        (BAD_PAGE_6_12, "struct pages", 0),
        (faults.ARM64_6_6, "struct pages", 0),
        (faults.X86_2_6_32, "other", 0),
        (BOOT + BUSINESS + "reboot: Restarting system\n", "no crash", 0),
        (BOOT + BUSINESS + "reboot: Power down\n", "no crash", 0),
        (BUSINESS + "reboot: Power down\n", "unknown", 2),
        (BOOT + BUSINESS, "unknown", 2),
        ("", "unknown", 2),
        ("\0\0\0\0", "unknown", 2),
        ("Kernel panic - not syncing: Fatal exception\n", "unknown", 2),
        (BUSINESS + "---[ end Kernel panic - not syncing: Fatal exception ]---\n", "unknown", 2),
    ],
)
def test_verdict(text: str, verdict: str, status: int) -> None:
    found = judge_log(read_text(text.encode()))
    assert (found.verdict, status_of([as_dict("log", found)])) == (verdict, status)


@pytest.mark.parametrize(
    ("verdict", "whole", "cut"),
    [("unexplained", 0, 2), ("no crash", 0, 2), ("other", 0, 0), ("possible", 1, 1), ("explained", 1, 1)],
)
def test_nothing_found_in_a_vmcore_that_is_not_whole(verdict: str, whole: int, cut: int) -> None:
    result = {"verdict": verdict, "target": {"release": "6.12"}}
    assert status_of([result]) == whole
    assert status_of([{**result, "target": {"incomplete": "truncated"}}]) == cut
    assert status_of([{**result, "target": None}]) == whole


def test_log_that_was_cut_is_not_whole() -> None:
    log = read_text((BOOT + BUSINESS + "reboot: Power down\n").encode())._replace(cut="too long")
    assert judge_log(log).verdict == "unknown"


def test_survived_crash_before_a_shutdown_is_a_crash() -> None:
    text = BOOT + BAD_PAGE_6_12 + BUSINESS + "reboot: Power down\n"
    found = judge_log(read_text(text.encode()))
    assert found.verdict == "struct pages" and "lived on" in found.why


def test_named_pfn_is_placed_by_the_boot() -> None:
    found = judge_log(read_text((BOOT + VM_BUG_ON_PAGE.replace("70c00", "3a300")).encode()))
    (place,) = found.places
    assert (place.pfn, place.zone, place.node, place.ram) == (0x3A300, "DMA32", 1, False)
    assert "hole" in found.why


def test_crash_is_of_the_boot_before_it() -> None:
    crash_kernel = (
        "Linux version 6.1.0 (a@b) (gcc) #1\nZone ranges:\n  DMA      [mem 0x0000000000001000-0x0000000000ffffff]\n"
    )
    found = judge_log(read_text((BOOT + VM_BUG_ON_PAGE + crash_kernel + BUSINESS).encode()))
    assert found.verdict == "struct pages"
    assert found.boot is not None and len(found.boot.zones) == 2


def test_what_to_collect_is_said() -> None:
    proof = "\n".join(judge_log(read_text(VM_BUG_ON_PAGE.encode())).proof)
    assert "0x70c00" in proof and "vmcore" in proof and "/proc/iomem" in proof
    assert "holes-in-zone-0" in proof


def test_json() -> None:
    data = json.loads(json.dumps(as_dict("log.txt", judge_log(read_text((BOOT + VM_BUG_ON_PAGE).encode())))))
    assert (data["schema"], data["source"], data["target"], data["verdict"]) == (
        "mminspect.triage/1",
        "log",
        None,
        "struct pages",
    )
    assert data["crash"]["about_struct_pages"] is True
    assert data["crash"]["pfns"] == [0x70C00]
    assert len(data["reports"]) == 1
    assert data["boot"]["release"] == "6.1.0-13-amd64"
