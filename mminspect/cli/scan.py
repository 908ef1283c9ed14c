# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect scan``."""

from __future__ import annotations

import shlex
from typing import IO

import click

from mminspect import signals
from mminspect.cli import pages, status
from mminspect.cli.output import say
from mminspect.cli.session import Session, picture_with_progress, scan_with_progress
from mminspect.commands.left_out import LeftOut, leave_out, read_baseline
from mminspect.commands.redact import redacted
from mminspect.findings import Report
from mminspect.kernel.inputs import Inputs
from mminspect.render.formats import PAGE, report_writer
from mminspect.render.style import Style, style_of
from mminspect.rules.registry import select_rules
from mminspect.walk.limits import Limits
from mminspect.walk.picture import Picture


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
    baseline: str | None,
    ignore_known: bool,
    ignore_id: tuple[str, ...],
    stop: bool,
    partial: bool,
    jobs: int | None,
    verbose: bool,
    notes: bool,
    statistics: bool,
    width: int | None,
    redact: bool,
) -> int:
    """Scan a kernel and write the report; return the exit status."""
    if statistics and format_ != "table":
        raise click.UsageError("--statistics goes with --format table; 'by_rule' of the JSON has the counts")
    rules = select_rules(select, ignore)
    write = _write_page if format_ == PAGE else report_writer(format_)
    left = LeftOut(read_baseline(baseline) if baseline is not None else (), frozenset(ignore_id), ignore_known)
    with Session(inputs, output, user, verbose=verbose, gentle=True, stop=stop) as session:
        with session.kernel() as kernel:
            stopper = signals.Stopper() if partial else None
            limits = Limits(max_rate, stopper, jobs)
            drawn: Picture | None = None
            if format_ == PAGE:
                order = pages.cell_order(kernel.memory, None)
                drawn, report = picture_with_progress(kernel, rules, limits, order, None)
            else:
                report = scan_with_progress(kernel, rules, limits)
            if left != LeftOut():
                report = leave_out(report, left)
                _say_what_is_not_there(report, left)
            if redact:
                report = redacted(report)
            if drawn is not None:
                report = report._replace(drawn=pages.drawable(drawn, report))
        with session.output() as out:
            style = style_of(out, width)._replace(
                verbose=verbose,
                notes=notes,
                statistics=statistics,
                fail_on=fail_on,
                next_steps=() if redact else call(inputs),
            )
            write(report, out, style)
    found = fail_on != "never" and report.count(fail_on)
    if stopper is not None and stopper.status is not None:
        say(f"{stopper.message}: the report is of the part that was walked")
        # Nothing found says little when not all was looked at.
        return status.FINDINGS if found else 0 if fail_on == "never" else stopper.status
    if found or fail_on == "never":
        return status.FINDINGS if found else 0
    # Nothing found says little when not all of it is there.
    return status.FAILED if "incomplete" in report.target and not allow_incomplete else 0


def _write_page(report: Report, out: IO[str], style: Style) -> None:
    from mminspect.render.html import write_page

    assert report.drawn is not None
    command = pages.command_line() if style.next_steps else "mminspect scan --redact"
    write_page(report.drawn, out, command, pages.worst_findings(report))


def call(inputs: Inputs) -> tuple[str, ...]:
    """Get the words with which a shell opens the same kernel, the program first."""
    words = []
    for option, values in (
        ("-c", (inputs.core, *inputs.pieces)),
        ("-s", inputs.symbols),
        ("--btf", (inputs.btf,)),
        ("--system-map", (inputs.system_map,)),
        ("--vmcoreinfo", (inputs.vmcoreinfo,)),
        ("--qemu", (inputs.qemu,)),
        ("--pageblock-order", (inputs.pageblock_order,)),
    ):
        words += [f"{option} {shlex.quote(str(value))}" for value in values if value is not None]
    return ("mminspect", *words) if inputs.core is not None else ("sudo mminspect", *words)


def _say_what_is_not_there(report: Report, left: LeftOut) -> None:
    """Say which IDs are no finding's: they were mistyped, or what they named is gone."""
    if len(left.ids) > report.summary["left_out"]["ids"]:
        say(f"{len(left.ids) - report.summary['left_out']['ids']} of the IDs of --ignore-id are no finding's")
