# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings stay sorted and counted, whether they fit into memory or not."""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mminspect.errors import MminspectError
from mminspect.findings import SEVERITIES, Finding, Report, sort_key
from mminspect.render.formats import report_writer
from mminspect.render.style import Style
from mminspect.walk import spill
from mminspect.walk.spill import Findings

FINDING = st.tuples(st.integers(0, 50), st.integers(1, 5), st.sampled_from(("a", "b")), st.sampled_from(SEVERITIES))


def make(start: int, pages: int, rule: str, severity: str, number: int = 0) -> Finding:
    """Make a finding whose detail tells it from others of the same pages."""
    return Finding(
        rule, severity, start, start + pages, 0, "Normal", f"{pages} pages", {"number": number, "runs": [0] * pages}
    )


@given(
    st.lists(FINDING, max_size=60),
    st.integers(1, 20),
    st.integers(1, 100),
    st.tuples(st.integers(1, 5), st.integers(0, 9)),
)
def test_order_and_counts_do_not_depend_on_the_memory(
    parts: list[tuple[Any, ...]], limit: int, items: int, batch: tuple[int, int]
) -> None:
    made = [make(*part, number) for number, part in enumerate(parts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "MAX_IN_MEMORY", limit)
        patch.setattr(spill, "MAX_ITEMS_IN_MEMORY", items)
        patch.setattr(spill, "BATCH", batch[0])
        patch.setattr(spill, "BATCH_ITEMS", batch[1])
        found = Findings()
        for finding in made:
            found.add(finding)
        # Findings that compare equal stay in the order in which they came.
        expected = sorted(made, key=sort_key)
        assert list(found) == expected
        assert list(found) == expected, "a second look"
        assert list(zip(found, found)) == list(zip(expected, expected)), "two looks at once"
        assert found == expected
        assert found[:3] == expected[:3]
    assert len(found) == len(made)
    assert found.by_severity == Counter(f.severity for f in made)
    assert found.by_rule == {
        rule: (sum(f.rule == rule for f in made), sum(f.pages for f in made if f.rule == rule))
        for rule in {f.rule for f in made}
    }


def test_parts_are_opened_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "MAX_IN_MEMORY", 10)
    found = Findings()
    opened: list[int] = []
    part = Findings._part

    def count(self: Findings, start: int, end: int) -> Iterator[Finding]:
        opened.append(1)
        yield from part(self, start, end)
        opened.append(-1)

    monkeypatch.setattr(Findings, "_part", count)
    for number in range(95):
        # The last of a part comes behind the first of the next one.
        found.add(make(number + 5 * (number % 10 == 9), 1, "a", "note", number))
    most = 0
    for _ in found:
        most = max(most, sum(opened))
    assert (len(opened), sum(opened), most) == (18, 0, 2)


def test_large_findings_are_fewer_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "MAX_ITEMS_IN_MEMORY", 1000)
    found = Findings()
    largest = 0
    for start in range(100):
        found.add(make(start, 300, "a", "note"))
        largest = max(largest, len(found._recent))
    assert largest == 3
    assert len(list(found)) == 100


def test_nothing_is_left_in_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(spill, "MAX_IN_MEMORY", 2)
    found = Findings()
    for start in range(5):
        found.add(make(start, 1, "a", "note"))
    assert len(list(found)) == 5
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: open("/dev/full", "w+b", buffering=1 << 16))  # noqa: SIM115
    monkeypatch.setattr(spill, "MAX_IN_MEMORY", 2)
    found = Findings()
    found.add(make(0, 1, "a", "note"))
    with pytest.raises(MminspectError, match=r"no room for them in .*: No space left on device"):
        found.add(make(1, 1, "a", "note"))


def report(number: int) -> Report:
    """Make a report with so many findings."""
    found = Findings()
    for start in reversed(range(number)):
        found.add(make(start, 1, "zone-span", "note"))
    target = dict.fromkeys(
        ("release", "machine", "memory_model", "page_size", "pageblock_order", "pageblock_order_from", "types_from")
    )
    by_severity = {**dict.fromkeys(reversed(SEVERITIES), 0), **found.by_severity}
    counts = {"pages_examined": number, "pages_unreadable": 0, "pageblocks": 1, "elapsed_seconds": 0.0}
    return Report(target, [], {**counts, "by_severity": by_severity}, found)


@pytest.mark.parametrize("number", [0, 1, 2, 25])
def test_json_is_written_as_it_comes(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "MAX_IN_MEMORY", 10)
    made = report(number)
    out = io.StringIO()
    report_writer("json")(made, out, Style())
    assert json.loads(out.getvalue()) == made.as_dict()
    assert len(made.as_dict()["findings"]) == number
    out = io.StringIO()
    report_writer("ndjson")(made, out, Style())
    assert [json.loads(line) for line in out.getvalue().splitlines()] == made.as_dict()["findings"]


def test_table_shows_the_first_and_counts_the_rest() -> None:
    out = io.StringIO()
    report_writer("table")(report(1003), out, Style(notes=True))
    lines = out.getvalue().splitlines()
    assert sum(line.startswith("note") for line in lines) == 1000
    assert "0x3e7-0x3e8" in out.getvalue() and "0x3e8-0x3e9" not in out.getvalue()
    assert "3 more findings not shown; --format json, ndjson or csv has all of them" in lines
    assert lines[1] == "0 errors; 0 warnings; 1,003 notes"


def test_table_of_as_many_as_it_shows_says_nothing_of_more() -> None:
    out = io.StringIO()
    report_writer("table")(report(1000), out, Style(notes=True))
    assert "not shown" not in out.getvalue()
