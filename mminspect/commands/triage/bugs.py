# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known bugs of the memory map: what each leaves in memory, and which kernels have it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mminspect.commands.triage.bug import Bug
from mminspect.commands.triage.bugs_at_run_time import RUN_TIME
from mminspect.commands.triage.bugs_of_boot import BOOT
from mminspect.commands.triage.bugs_of_layout import LAYOUT
from mminspect.commands.triage.releases import Release, parse_release
from mminspect.commands.triage.report import Report
from mminspect.errors import MminspectError

BUGS: tuple[Bug, ...] = (*BOOT, *RUN_TIME, *LAYOUT)

# Whether a kernel has a bug, as far as its release tells. Vendors fix bugs without changing the number.
HAS = "has it"
MAY = "may have it"


_EXACT = re.compile(r"\d+\.\d+(?:\.\d+)?(?:-rc\d+)?\+?")


class Fit(NamedTuple):
    """
    A known bug that a kernel may have.

    :ivar status: ``has it`` or ``may have it``.
    """

    bug: Bug
    status: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"name": self.bug.title, **as_dict(self.bug), "status": self.status}


def as_dict(bug: Bug) -> dict[str, Any]:
    """Return a bug as JSON has it."""
    return {
        "id": bug.id,
        "title": bug.title,
        "evidence": bug.evidence,
        "rules": list(bug.rules),
        "proof": bug.proof,
        "harmful": bug.harmful,
        "machines": list(bug.machines),
        "introduced": bug.introduced,
        "introduced_stable": list(bug.introduced_stable),
        "fixed": bug.fixed,
        "fixed_stable": list(bug.stable),
        "commits": [{"hash": commit.hash, "title": commit.title, "what": commit.what} for commit in bug.commits],
    }


def bug_of(name: str) -> Bug | None:
    """Return the bug with an id."""
    return next((bug for bug in BUGS if bug.id == name), None)


def bugs_for(release: str | None, machine: str | None = None) -> list[Fit]:
    """
    Return the bugs that a kernel may have.

    :param release: As in ``uname -r``; of an unknown one, all bugs may be in it.
    :param machine: As in ``uname -m``, if it is known.
    """
    found = []
    for bug in BUGS:
        status = _status(bug, release)
        if status and not (machine and bug.machines and machine not in bug.machines):
            found.append(Fit(bug, status))
    return found


def list_bugs(release: str | None = None) -> list[dict[str, Any]]:
    """
    Return the known bugs as JSON has them.

    :param release: Only those that this kernel may have, each with ``status``.
    :raises MminspectError: if it isn't a release.
    """
    if release is None:
        return [as_dict(bug) for bug in BUGS]
    if parse_release(release) is None:
        raise MminspectError(f"{release!r} is no kernel release; give what uname -r prints, such as 5.10.0-8-amd64")
    return [fit.as_dict() for fit in bugs_for(release)]


def _status(bug: Bug, release: str | None) -> str | None:
    version = parse_release(release)
    if version is None:
        return MAY
    # A distribution's 5.10.0-32 can be any 5.10, and more.
    is_exact = _EXACT.fullmatch(release or "") is not None
    introduced, fixed = parse_release(bug.introduced), parse_release(bug.fixed)
    if introduced is not None and version < introduced:
        cause = _in_series(bug.introduced_stable, version)
        if cause is None or (version[3] < cause[3] and is_exact):
            return None
    if fixed is not None and version >= fixed:
        return None
    mended = _in_series(bug.stable, version)
    if mended is not None:
        if mended[3] and version[3] >= mended[3]:
            return None
        return HAS if mended[3] and is_exact else MAY
    # Stable releases and those of distributions get fixes of later kernels, and nobody wrote down which.
    return HAS if bug.introduced and bug.fixed and is_exact and not version[3] else MAY


def _in_series(releases: tuple[str, ...], version: Release) -> Release | None:
    """Return the one of some releases that is in a release's stable series; of "5.10.y", sublevel 0."""
    parsed = (parse_release(text) for text in releases)
    return next((found for found in parsed if found is not None and found[:2] == version[:2]), None)


def bugs_of_report(report: Report, release: str | None, machine: str | None = None, about: bool = True) -> list[Fit]:
    """
    Return the known bugs that a report looks like: its kernel may have them, and it died where they kill.

    Of one that is not about struct pages, those that kill before there are any: both function and words must fit.

    :param about: Whether the report is about struct pages.
    """
    text = "\n".join((report.reason, report.what, *(line.text for line in report.lines[:200])))
    names = [name.lstrip("_") for name in (report.function, *report.trace) if name]
    found = []
    for fit in bugs_for(release, machine):
        bug = fit.bug
        dies = any(name.startswith(bug.functions) for name in names) if bug.functions else False
        says = re.search(bug.words, text) is not None if bug.words else False
        if (dies and says) if not bug.rules else about and (dies or says):
            found.append(fit)
    return found
