# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict on a log without a dump."""

from __future__ import annotations

import io
import json

import pytest

from mminspect.commands.triage.alone import as_dict, judge_log
from mminspect.commands.triage.files import status_of
from mminspect.commands.triage.lines import read_text
from mminspect.render.triage import write_text
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


# A guest of 6.12.118 whose memory ends in a no-map range that begins inside a page.
NO_MAP_INSIDE_A_PAGE = """\
[    0.000000] Linux version 6.12.118+deb13-cloud-arm64 (debian-kernel@lists.debian.org) #1 SMP Debian 6.12.118-1
[    0.000000] Machine model: linux,dummy-virt
[    0.000000] Unable to handle kernel paging request at virtual address ffff0000beb833c0
[    0.000000] Mem abort info:
[    0.000000]   ESR = 0x0000000096000047
[    0.000000]   FSC = 0x07: level 3 translation fault
[    0.000000] Internal error: Oops: 0000000096000047 [#1] SMP
[    0.000000] Modules linked in:
[    0.000000] CPU: 0 UID: 0 PID: 0 Comm: swapper Not tainted 6.12.118+deb13-cloud-arm64 #1  Debian 6.12.118-1
[    0.000000] pstate: 200000c5 (nzCv daIF -PAN -UAO -TCO -DIT -SSBS BTYPE=--)
[    0.000000] pc : __memset+0x7c/0x188
[    0.000000] lr : memblock_alloc_try_nid+0x94/0xb8
[    0.000000] sp : ffff800081ad3ca0
[    0.000000] Call trace:
[    0.000000]  __memset+0x7c/0x188
[    0.000000]  fdt_scan_reserved_mem_reg_nodes+0xcc/0x370
[    0.000000]  unflatten_device_tree+0x24/0xc8
[    0.000000]  setup_arch+0x2b4/0x628
[    0.000000] ---[ end trace 0000000000000000 ]---
"""


def test_bug_that_kills_before_there_are_struct_pages_is_known() -> None:
    found = judge_log(read_text(NO_MAP_INSIDE_A_PAGE.encode()))
    assert found.verdict == "other"
    assert [fit.bug.id for fit in found.known_bugs] == ["no-map-inside-a-page"]
    assert found.proof[0].startswith("no-map-inside-a-page: a node of /reserved-memory")
    # Neither the words nor the function alone are the bug.
    elsewhere = NO_MAP_INSIDE_A_PAGE.replace("unflatten_device_tree", "a").replace("fdt_scan_reserved_mem", "b")
    assert judge_log(read_text(elsewhere.replace("memblock_alloc", "c").encode())).known_bugs == ()
    others = NO_MAP_INSIDE_A_PAGE.replace("paging request", "access")
    assert judge_log(read_text(others.encode())).known_bugs == ()


def test_helper_that_only_the_link_register_tells_the_caller_of_is_no_caller() -> None:
    out = io.StringIO()
    write_text([as_dict("log", judge_log(read_text(NO_MAP_INSIDE_A_PAGE.encode())))], out, 100)
    assert "called by fdt_scan_reserved_mem_reg_nodes, unflatten_device_tree, setup_arch" in out.getvalue()
