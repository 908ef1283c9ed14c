# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of known bugs."""

from __future__ import annotations

import re

import pytest

from mminspect.commands.triage.bugs import BUGS, bug_of, bugs_for, bugs_of_report
from mminspect.commands.triage.lines import read_text
from mminspect.commands.triage.releases import parse_release
from mminspect.commands.triage.reports import read_reports
from mminspect.rules.quirks import QUIRKS, Quirk
from tests.commands.triage.test_checks import VM_BUG_ON_PAGE


def test_every_row_is_complete() -> None:
    assert len({bug.id for bug in BUGS}) == len(BUGS)
    for bug in BUGS:
        assert re.fullmatch(r"[a-z0-9-]+", bug.id)
        assert bug.title and bug.evidence and bug.proof
        if bug.words:
            re.compile(bug.words)
        for version in (bug.introduced, bug.fixed, *bug.introduced_stable, *bug.stable):
            assert version is None or parse_release(version) is not None
        for commit in bug.commits:
            assert re.fullmatch(r"[0-9a-f]{12}", commit.hash)
            assert commit.title and commit.what


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.id)
def test_quirk_that_explains_a_finding_is_a_known_bug(quirk: Quirk) -> None:
    bug = bug_of(quirk.id)
    assert bug is not None
    assert set(quirk.rules) <= set(bug.rules)
    assert bug.harmful or not quirk.harmful


@pytest.mark.parametrize(
    ("name", "release", "status"),
    [
        ("holes-in-zone-0", "5.7.19", None),
        ("holes-in-zone-0", "5.8.0", "has it"),
        ("holes-in-zone-0", "5.11.6", "has it"),
        ("holes-in-zone-0", "5.11.7", None),
        ("holes-in-zone-0", "5.10.0-32-amd64", "may have it"),
        ("holes-in-zone-0", "5.12.0", None),
        ("holes-extend-zones", "5.11.0-rc4", None),
        ("holes-extend-zones", "5.11.0-rc6", "has it"),
        ("holes-extend-zones", "5.11.0", None),
        ("fast-isolate-around-leaves-zone", "6.1.0-13-amd64", "may have it"),
        ("fast-isolate-around-leaves-zone", "6.1.2", "has it"),
        ("fast-isolate-around-leaves-zone", "6.1.3", None),
        ("fast-isolate-around-leaves-zone", "6.1.76", None),
        ("fast-isolate-around-leaves-zone", "6.1.76-1-pve", None),
        # The half of a fix that left it open came to 5.10.20, the other half to 5.10.163.
        ("fast-isolate-around-leaves-zone", "5.10.19", None),
        ("fast-isolate-around-leaves-zone", "5.10.20", "has it"),
        ("fast-isolate-around-leaves-zone", "5.10.162", "has it"),
        ("fast-isolate-around-leaves-zone", "5.10.163", None),
        ("fast-isolate-around-leaves-zone", "5.10.0-8-amd64", "may have it"),
        ("fast-isolate-around-leaves-zone", "5.4.200", "may have it"),
        ("fast-isolate-around-leaves-zone", "5.15.80", "may have it"),
        ("fast-isolate-leaves-zone", "5.10.200", None),
        ("fast-isolate-leaves-zone", "5.10.19", "has it"),
        ("descending-nodes", "5.10.40", "has it"),
        ("descending-nodes", "5.10.23", None),
        ("descending-nodes", "5.10.53", None),
        ("deferred-init-not-deferred", "5.10.200", None),
        ("reserved-memory-in-no-node", "6.6.50", None),
        ("reserved-memory-in-no-node", "6.6.14", "has it"),
        ("fast-isolate-around-leaves-zone", "6.1.0", "has it"),
        ("kho-preserved-pages", "5.10.0", None),
        ("fast-isolate-around-leaves-zone", "6.2", None),
        ("interleaved-nodes", "7.2.13", "may have it"),
        ("partial-last-section", "4.18.0-553.el8.x86_64", "may have it"),
        ("holes-in-zone-0", None, "may have it"),
    ],
)
def test_which_kernels_have_a_bug(name: str, release: str | None, status: str | None) -> None:
    found = {fit.bug.id: fit.status for fit in bugs_for(release)}
    assert found.get(name) == status
    assert bug_of(name) is not None


def test_bugs_of_other_machines_are_left_out() -> None:
    names = {fit.bug.id for fit in bugs_for("5.10.0", "x86_64")}
    assert "arm-freed-memmap" not in names and "holes-in-zone-0" in names
    assert "arm-freed-memmap" in {fit.bug.id for fit in bugs_for("5.10.0", "arm")}


def test_bug_of_2021_fits_its_report() -> None:
    (report,) = read_reports(read_text(VM_BUG_ON_PAGE.encode()).lines)
    assert "holes-in-zone-0" in {fit.bug.id for fit in bugs_of_report(report, "5.10.15", "x86_64")}
    assert "holes-in-zone-0" not in {fit.bug.id for fit in bugs_of_report(report, "6.1.0", "x86_64")}
