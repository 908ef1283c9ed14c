# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect watch``."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from mminspect.cli.output import stdout
from mminspect.cli.session import Session, scan_with_progress
from mminspect.commands.watch import Changes, changes
from mminspect.findings import Finding
from mminspect.kernel.inputs import Inputs
from mminspect.render.formats import CHANGE_FORMATS, changes_writer, report_writer
from mminspect.render.style import style_of
from mminspect.rules.registry import select_rules
from mminspect.walk.limits import Limits


def run(
    inputs: Inputs,
    interval: float,
    count: int | None,
    format_: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    output: str | None,
    max_rate: int | None,
    user: str,
) -> None:
    """Scan a kernel again and again, and write each time what changed, or the whole state."""
    rules = select_rules(select, ignore)
    if output is not None and format_ in CHANGE_FORMATS:
        raise click.UsageError("-o goes with --format prometheus; the other formats are streams on stdout")
    write_changes = changes_writer(format_) if format_ in CHANGE_FORMATS else None
    write_report = report_writer(format_)
    with Session(inputs, output, user, gentle=True, forever=True) as session, session.kernel() as kernel:
        before: Sequence[Finding] = ()
        done = 0
        while True:
            begin = time.monotonic()
            report = scan_with_progress(kernel, rules, Limits(max_rate))
            if write_changes is not None:
                found = changes(before, report.findings)
                now = Changes(time.localtime(), found, len(report.findings))
                write_changes(now, stdout(), style_of(stdout()))
                before = report.findings
            else:
                with session.output() as out:
                    write_report(report, out, style_of(out))
            if output is None:
                stdout().flush()
            done += 1
            if count is not None and done >= count:
                return
            time.sleep(max(0.0, interval - (time.monotonic() - begin)))
