# SPDX-License-Identifier: LGPL-2.1-or-later
"""What only the version tells."""

from __future__ import annotations

import re

import pytest

from mminspect.program import since
from tests.kit.support import ROOT


def test_versions_that_were_tried_are_those_of_the_matrix() -> None:
    found: dict[str, set[tuple[int, int]]] = {}
    for line in (ROOT / "fixtures" / "MATRIX.md").read_text().splitlines():
        match = re.match(r"\| \S+ +\| (\d+)\.(\d+)\.\S+ +\| (\w+) +\| (?:flatmem|sparsemem)", line)
        if match:
            found.setdefault(match.group(3), set()).add((int(match.group(1)), int(match.group(2))))
    assert {machine: set(versions) for machine, versions in since.TRIED.items()} == found


@pytest.mark.parametrize(
    ("release", "machine", "expected"),
    [
        ("6.12.117+deb13-amd64", "x86_64", "yes"),
        ("5.14.0-503.el9.x86_64", "x86_64", "near"),
        ("4.18.0-553.el8.x86_64", "x86_64", "no"),
        ("7.4.0-rc1", "x86_64", "no"),
        ("5.10.0", "aarch64", "no"),
        ("6.18.1", "aarch64", "near"),
        ("6.12.0", "loongarch64", "no"),
        ("next", "x86_64", "no"),
    ],
)
def test_whether_a_kernel_was_tried(release: str, machine: str, expected: str) -> None:
    assert since.tried(release, machine) == expected
