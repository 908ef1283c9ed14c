# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect triage``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from mminspect.cli import status
from mminspect.cli.output import say
from mminspect.cli.session import Session
from mminspect.commands.triage.run import triage
from mminspect.errors import MminspectError
from mminspect.kernel.inputs import Inputs
from mminspect.render import json_
from mminspect.render.style import style_of
from mminspect.render.triage import write_triage


def run(inputs: Inputs, vmcores: tuple[str, ...], format_: str, fail_on: str, output: str | None, user: str) -> int:
    """Write why kernels died; return the exit status."""
    if vmcores and inputs.core is not None:
        raise click.UsageError("triage reads the vmcores that follow it: leave out -c, or give no other vmcore")
    paths = vmcores or ((inputs.core,) if inputs.core is not None else ())
    if not paths:
        raise click.UsageError("give at least one vmcore")
    results: list[dict[str, Any]] = []
    code = 0
    with Session(inputs, output, user, vmcores=paths) as session:
        for path in paths:
            try:
                pieces = () if vmcores else inputs.pieces
                with session.kernel(replace(inputs, core=path, pieces=pieces)) as kernel:
                    data, report = triage(kernel)
            except MminspectError as e:
                if len(paths) == 1:
                    raise
                say(str(e))
                code = status.FAILED
                results.append({"path": path, "error": str(e)})
                continue
            results.append(data)
            if fail_on != "never" and report.count(fail_on):
                code = max(code, status.FINDINGS)
            elif fail_on != "never" and "incomplete" in report.target:
                code = status.FAILED
        with session.output() as out:
            if format_ == "json":
                json_.write(results, out)
            else:
                for number, data in enumerate(data for data in results if "error" not in data):
                    out.write("\n" if number else "")
                    write_triage(data, out, style_of(out).width)
    return code
