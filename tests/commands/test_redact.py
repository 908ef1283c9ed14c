# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports that can be shown to anybody: nothing that tells where the kernel lies, and no path, in any format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mminspect.commands.redact import LEAST, PATH, Redactor, redacted
from mminspect.findings import Finding, Report
from mminspect.render.formats import PAGE, REPORT_FORMATS
from mminspect.walk.spill import Findings
from tests.conftest import Cli, Plant, Unpacked
from tests.kit.support import AMD64_HEALTHY, NAMES


def numbers(data: Any) -> Iterator[int]:
    """Go through all numbers in plain data: as such, and in hexadecimal in text."""
    if isinstance(data, dict):
        for value in data.values():
            yield from numbers(value)
    elif isinstance(data, list):
        for value in data:
            yield from numbers(value)
    elif isinstance(data, str):
        yield from (int(word, 16) for word in re.findall(r"0x([0-9a-fA-F]+)", data))
    elif isinstance(data, int) and not isinstance(data, bool):
        yield data


def check(cli: Cli, core: Path) -> None:
    """Check that no format has an address or the path."""
    plain = cli("scan", core, "--format", "json").json()
    last = max(zone["end_pfn"] for zone in plain["zones"] if zone["end_pfn"] < 1 << 40)
    secrets = {number for number in numbers(plain["findings"]) if number >= max(LEAST, 2 * last)}
    for format_ in (*REPORT_FORMATS, PAGE):
        more = ("-v", "-n", "--width", "1000") if format_ == "table" else ()
        out = cli("scan", core, "--redact", "--format", format_, *more).out
        found = {int(word, 16) for word in re.findall(r"0x([0-9a-fA-F]+)", out)}
        found |= {int(word) for word in re.findall(r"(?<![\w.])\d{8,}(?![\w.])", out)}
        assert not found & secrets, format_
        assert str(core) not in out and core.name not in out, format_


@pytest.mark.parametrize("name", NAMES)
def test_no_format_tells_an_address_or_the_path(name: str, cli: Cli, unpacked: Unpacked) -> None:
    check(cli, unpacked(name))


def test_nor_do_findings_of_damaged_lists(plant: Plant, cli: Cli) -> None:
    fault = plant(AMD64_HEALTHY)
    area = fault.zone_member(0, 1, "free_area")[10]
    fault.editor.write_word(area.nr_free.address_, (1 << 64) - 3)
    fault.editor.write_word(area.free_list[1].next.address_, 0xFFFF888012345678)
    plain = cli("scan", fault.editor.path, "--format", "json").json()
    assert any(number == 0xFFFF888012345678 for number in numbers(plain["findings"]))
    check(cli, fault.editor.path)


def make(*findings: Finding) -> Report:
    """Make a report of a machine of 1 GiB."""
    found = Findings()
    for finding in findings:
        found.add(finding)
    target = {"path": "/home/me/secret core", "incomplete": "/home/me/secret core: cut short at 0xffff888000001000"}
    return Report(target, [{"end_pfn": 0x40000}], {}, found)


def test_same_address_has_the_same_name_and_pfns_stay() -> None:
    message = "pfn 0x3ffff: 0xffff888000001000 and 18446612682070036480, then 0xffffffff81000000; 1,048,576 of "
    message += "33554431 pages"
    detail = {
        "address": 0xFFFF888000001000,
        "pfn": 0x3FFFF,
        "why": "0xFFFF888000001000",
        "list": [1, [0xFFFFFFFF81000000]],
    }
    report = redacted(
        make(Finding("free-list", "error", 0x3FFFF, 0x40000, 0, "DMA", message, detail, id="free-list-1"))
    )
    (finding,) = report.findings
    assert finding.message == (
        "pfn 0x3ffff: (address 1) and (address 1), then (address 2); 1,048,576 of (address 3) pages"
    )
    assert finding.detail == {"address": "address 1", "pfn": 0x3FFFF, "why": "(address 1)", "list": [1, ["address 2"]]}
    assert (finding.id, finding.start_pfn) == ("free-list-1", 0x3FFFF)
    assert report.target["path"] == PATH
    assert report.target["incomplete"] == f"{PATH}: cut short at (address 1)"
    assert "secret" not in str(report.target)


def test_pfns_of_a_large_machine_are_no_addresses() -> None:
    large = make()._replace(zones=[{"end_pfn": 1 << 30}, {"end_pfn": 1 << 52}])
    redactor = Redactor(large)
    assert redactor.text(f"{(1 << 31) - 1:#x}") == f"{(1 << 31) - 1:#x}"
    assert redactor.text(f"{1 << 31:#x}") == "(address 1)"
