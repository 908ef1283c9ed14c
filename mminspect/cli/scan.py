# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect scan``."""

from __future__ import annotations

from mminspect import signals
from mminspect.cli import status
from mminspect.cli.output import say
from mminspect.cli.session import Session, scan_with_progress
from mminspect.kernel.inputs import Inputs
from mminspect.render.formats import report_writer
from mminspect.render.style import style_of
from mminspect.rules.registry import select_rules
from mminspect.walk.limits import Limits


def run(
    inputs: Inputs,
    format_: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    fail_on: str,
    output: str | None,
    max_rate: int | None,
    user: str,
    allow_incomplete: bool,
    partial: bool,
    jobs: int | None,
    verbose: bool,
) -> int:
    """Scan a kernel and write the report; return the exit status."""
    rules = select_rules(select, ignore)
    write = report_writer(format_)
    with Session(inputs, output, user, verbose=verbose, gentle=True) as session:
        with session.kernel() as kernel:
            stopper = signals.Stopper() if partial else None
            report = scan_with_progress(kernel, rules, Limits(max_rate, stopper, jobs))
        with session.output() as out:
            write(report, out, style_of(out)._replace(verbose=verbose))
    found = fail_on != "never" and report.count(fail_on)
    if stopper is not None and stopper.status is not None:
        say(f"{stopper.message}: the report is of the part that was walked")
        # Nothing found says little when not all was looked at.
        return status.FINDINGS if found else 0 if fail_on == "never" else stopper.status
    if found or fail_on == "never":
        return status.FINDINGS if found else 0
    # Nothing found says little when not all of it is there.
    return status.FAILED if "incomplete" in report.target and not allow_incomplete else 0
