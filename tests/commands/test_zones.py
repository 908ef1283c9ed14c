# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect zones``."""

from __future__ import annotations

import pytest

from tests.conftest import Cli, Scanned, Unpacked
from tests.kit.support import (
    AMD64_LOW_RAM,
    NAMES,
)


def test_zones_as_json_has_nodes_zones_sections_and_holes(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("-c", unpacked(AMD64_LOW_RAM), "zones", "--format", "json")
    assert done.status == 0
    data = done.json()
    assert [n["node"] for n in data["nodes"]] == [0]
    assert (data["nodes"][0]["start_pfn"], data["nodes"][0]["end_pfn"]) == (1, 1067776)
    assert data["zones"] == cli("-c", unpacked(AMD64_LOW_RAM), "scan", "--format", "json").json()["zones"]
    assert [(s["first"], s["last"]) for s in data["sections"]] == [(0, 0), (32, 32)]
    holes = [(h["zone"], h["start_pfn"], h["end_pfn"]) for h in data["holes"]]
    assert holes == [("DMA32", 0x8000, 0x100000)]


def test_zones_leaves_out_sections_that_are_offline(cli: Cli, unpacked: Unpacked) -> None:
    data = cli("-c", unpacked("amd64-5.10-hotplug"), "zones", "--format", "json").json()
    assert [(s["first"], s["last"]) for s in data["sections"]] == [(0, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_zones_as_table_names_every_zone(name: str, cli: Cli, unpacked: Unpacked, scanned: Scanned) -> None:
    done = cli("-c", unpacked(name), "zones")
    assert (done.status, done.err) == (0, "")
    for zone in scanned(name).zones:
        assert f"{zone['start_pfn']:#x}-{zone['end_pfn']:#x}" in done.out
        assert zone["name"] in done.out
