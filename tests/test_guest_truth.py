# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Zones and pageblock order agree with what the guests printed themselves.

``data/*.txt`` are lines of ``/proc/version``, ``/proc/zoneinfo`` and ``/proc/pagetypeinfo`` from the console of the
guest whose dump the vmcore of that name was made of.
"""

from __future__ import annotations

import re

import pytest

from tests.conftest import Scanned
from tests.kit.support import DATA, NAMES

# Pages may be given back between the guest's print and the dump.
MANAGED_SLACK = 64


def zoneinfo(text: str) -> dict[tuple[int, str], dict[str, int]]:
    """Parse the zones that span pages."""
    zones: dict[tuple[int, str], dict[str, int]] = {}
    values: dict[str, int] = {}
    for line in text.splitlines():
        head = re.fullmatch(r"Node (\d+), zone +(\S+)", line)
        if head:
            values = zones.setdefault((int(head.group(1)), head.group(2)), {})
            continue
        value = re.fullmatch(r" +(spanned|present|managed|start_pfn):? +(\d+)", line)
        if value:
            values[value.group(1)] = int(value.group(2))
    return {key: values for key, values in zones.items() if values["spanned"]}


@pytest.mark.parametrize("name", NAMES)
def test_zones_are_those_of_proc_zoneinfo(name: str, scanned: Scanned) -> None:
    expected = zoneinfo((DATA / f"{name}.txt").read_text())
    zones = {(zone["node"], zone["name"]): zone for zone in scanned(name).zones}
    assert zones.keys() == expected.keys()
    for key, zone in zones.items():
        told = expected[key]
        exact = {k: v for k, v in told.items() if k != "managed"}
        assert {k: zone[k] for k in exact} == exact, key
        assert zone["end_pfn"] == told["start_pfn"] + told["spanned"]
        assert abs(zone["managed"] - told["managed"]) <= MANAGED_SLACK, key


@pytest.mark.parametrize("name", NAMES)
def test_pageblock_order_is_that_of_proc_pagetypeinfo(name: str, scanned: Scanned) -> None:
    text = (DATA / f"{name}.txt").read_text()
    orders: list[str] = re.findall(r"^Page block order: (\d+)$", text, re.MULTILINE)
    assert [str(scanned(name).target["pageblock_order"])] == orders


@pytest.mark.parametrize("name", NAMES)
def test_release_is_that_of_proc_version(name: str, scanned: Scanned) -> None:
    text = (DATA / f"{name}.txt").read_text()
    assert f"Linux version {scanned(name).target['release']}\n" in text


def test_data_holds_zones_that_span_pages() -> None:
    """An empty comparison would prove nothing."""
    for name in NAMES:
        assert zoneinfo((DATA / f"{name}.txt").read_text())
