# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must be seen in the two dumps that stock kernels gave: an i386 with a hole, and an amd64 of 400 MiB."""

from __future__ import annotations

from typing import Any

from tests.conftest import Cli, Unpacked
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, I386_HOLE, VMCORES, python


def by_rule(report: dict[str, Any], rule: str) -> list[dict[str, Any]]:
    return [f for f in report["findings"] if f["rule"] == rule]


def ranges(findings: list[dict[str, Any]]) -> list[Any]:
    return [(f["start_pfn"], f["end_pfn"], f["severity"]) for f in findings]


def test_i386_hole_is_uninitialized_mixed_and_out_of_the_bitmap(cli: Cli) -> None:
    done = cli("-c", VMCORES / f"{I386_HOLE}.xz", "scan", "--format", "json")
    assert done.status == 1
    assert done.err == ""
    report = done.json()

    hole = by_rule(report, "uninitialized")
    assert ranges(hole) == [(0xA17B, 0xA217, "error")]
    assert hole[0]["detail"]["kind"] == "zeroed"
    assert (hole[0]["node"], hole[0]["zone"]) == (0, "Normal")

    blocks = by_rule(report, "mixed-zone")
    assert ranges(blocks) == [
        (0xA000, 0xA200, "error"),
        (0xA200, 0xA400, "error"),
        (0x36E00, 0x37000, "note"),
    ]
    assert [b["detail"]["hidden"] for b in blocks] == [False, False, False]
    assert blocks[0]["detail"]["runs"] == [[0xA000, 0xA17B, 0, 1], [0xA17B, 0xA200, 0, 0]]
    assert blocks[2]["detail"]["runs"] == [[0x36E00, 0x36FFE, 0, 1], [0x36FFE, 0x37000, 0, 2]]

    outside = by_rule(report, "bitmap-bounds")
    assert ranges(outside) == [(0xA17B, 0xA217, "error")]
    detail = outside[0]["detail"]
    assert (detail["index"], detail["limit"]) == (320, 32)
    # Bit 320 is in the 11th 32-bit word; the bitmap is the first.
    assert detail["address"] == detail["bitmap"] + 40
    assert detail["outside"] == 36
    assert detail["there"]["kind"] in ("symbol", "slab", "page", "reserved", "free", "unknown", "unmapped")

    assert ranges(by_rule(report, "zone-span")) == [(0, 1, "note"), (0xA17B, 0xA217, "error")]
    assert by_rule(report, "zone-id") == by_rule(report, "contiguous") == by_rule(report, "unreadable") == []


def test_400_mib_guest_has_two_pages_of_a_zone_that_does_not_exist(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("-c", unpacked(AMD64_400M), "scan", "--format", "json")
    assert done.status == 1
    report = done.json()

    ids = by_rule(report, "zone-id")
    assert ranges(ids) == [(0x18FE0, 0x18FE2, "error")]
    assert (ids[0]["detail"]["zone_id"], ids[0]["detail"]["max_nr_zones"], ids[0]["detail"]["node"]) == (5, 5, 0)
    assert ids[0]["detail"]["member"] == "node_zonelists"
    assert ids[0]["zone"] is None

    blocks = by_rule(report, "mixed-zone")
    assert ranges(blocks) == [(0x18E00, 0x19000, "error")]
    assert blocks[0]["detail"]["hidden"] is True
    assert by_rule(report, "uninitialized") == by_rule(report, "bitmap-bounds") == []


def test_healthy_guest_has_nothing_above_a_note(cli: Cli, unpacked: Unpacked) -> None:
    path = unpacked(AMD64_HEALTHY)
    assert cli("-c", path, "scan", "--fail-on", "warning").status == 0
    assert cli("-c", path, "scan", "--fail-on", "note").status == 1


def test_types_come_from_the_dump_itself(cli: Cli, unpacked: Unpacked) -> None:
    report = cli("-c", unpacked(AMD64_400M), "scan", "--format", "json").json()
    assert report["target"]["types_from"] == "btf"
    assert report["target"]["memory_model"] == "sparsemem_vmemmap"
    assert report["target"]["page_flags_layout"]["node"] == {"shift": 54, "width": 10}
    assert report["target"]["page_flags_layout"]["zone"] == {"shift": 51, "width": 3}


def test_module_runs_as_a_process_of_its_own(unpacked: Unpacked) -> None:
    done = python("-c", str(unpacked(I386_HOLE)), "scan", "--select", "uninitialized")
    assert done.status == 1
    assert "0xa17b-0xa217" in done.out
    assert done.err == ""
