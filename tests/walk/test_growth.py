# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmarks' generated memory maps: what is planted is found, and holes are not read."""

from __future__ import annotations

import pytest

from mminspect.memmap.reader import Memmap
from mminspect.rules.registry import all_rules
from mminspect.walk.engine import Scan
from tests.benchmarks.synthetic import SECTION_PAGES, Size, make
from tests.kit.handmade import nothing_known


@pytest.mark.parametrize(
    ("size", "sections"),
    [(Size(1, 1, 10), 8), (Size(1, 4, 0), 2), (Size(1024, 1024, 9000), 8), (Size(65536, 65536, 1), 8)],
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_planted_is_found_and_nothing_else_read(
    size: Size, sections: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    original = Memmap._read
    monkeypatch.setattr(Memmap, "_read", lambda *arguments: reads.append(1) or original(*arguments))  # type: ignore[func-returns-value]
    prog, memory = make(size)
    scan = Scan(memory, Memmap(prog, memory), list(all_rules().values()), nothing_known)
    found = scan.findings(jobs=jobs)
    assert found.by_rule.get("zone-span", (0, 0)) == (size.findings, size.findings)
    assert scan.pages_examined == sections * SECTION_PAGES
    assert len(reads) == (sections if jobs == 1 else 0), "more was read than is online"
