# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect diff``."""

from __future__ import annotations

import io
from typing import Any

import click

from mminspect.cli import status
from mminspect.cli.output import check_writable
from mminspect.cli.session import Session, scan_with_progress
from mminspect.commands import diff as diffs
from mminspect.commands.map import memory_states
from mminspect.commands.saved import load, looks_like_json, relied_on
from mminspect.kernel.inputs import Inputs
from mminspect.program import files
from mminspect.program.open import opened
from mminspect.render import json_
from mminspect.render.diff import write_diff
from mminspect.render.diff_page import write_diff_page
from mminspect.render.style import style_of
from mminspect.rules.registry import select_rules
from mminspect.typeinfo.buildid import read_build_id
from mminspect.walk.limits import Limits

# The name of the running kernel.
LIVE = "/proc/kcore"


def run(inputs: Inputs, before: str, after: str, format_: str, fail_on: str, output: str | None, user: str) -> int:
    """Compare two reports, maps or vmcores; return the exit status."""
    if inputs.core is not None:
        raise click.UsageError("-c is of the other commands; diff takes two files: reports, maps or vmcores")
    if before == after == LIVE:
        raise click.UsageError("the running kernel can't be compared with itself")
    check_writable(output, [before, after])
    # What is saved can be refused at once.
    saved = {path: _saved(path) for path in {before, after} if looks_like_json(path)}
    vmcores = [path for path in {before, after} if path not in saved and path != LIVE]
    for path in vmcores:
        files.hold(path)
    with Session(inputs, output, user, vmcores=() if LIVE in (before, after) else vmcores or list(saved)) as session:
        sides = {**saved, **{path: _scanned(session, inputs, path) for path in {before, after} - set(saved)}}
        # Where one is damaged, nothing must be half written.
        text = io.StringIO()
        with session.output() as out:
            with relied_on(sorted(saved)):
                data = diffs.diff(sides[before], sides[after])
                if format_ == "json":
                    json_.write(data, text)
                elif format_ == "html":
                    write_diff_page(data, sides[before], sides[after], text)
                else:
                    write_diff(data, text, style_of(out))
            out.write(text.getvalue())
    return status.FINDINGS if fail_on != "never" and diffs.is_new_at(data, fail_on) else 0


def _saved(path: str) -> dict[str, Any]:
    return {**load(path), "path": path}


def _scanned(session: Session, inputs: Inputs, path: str) -> dict[str, Any]:
    """Scan a vmcore, or the running kernel."""
    core = None if path == LIVE else path
    own = inputs._replace(core=core, symbols=_symbols_of(inputs, core))
    with session.kernel(own) as kernel:
        report = scan_with_progress(kernel, select_rules(), Limits(jobs=None))
        return {**report.as_dict(), "memory": memory_states(kernel.memory), "path": path}


def _symbols_of(inputs: Inputs, core: str | None) -> tuple[str, ...]:
    """Get the files of -s that are of a kernel, by their build IDs; all where there is no choice."""
    if len(inputs.symbols) < 2:
        return inputs.symbols
    with opened(core) as target:
        wanted = target.vmcoreinfo.build_id
    return tuple(path for path in inputs.symbols if wanted in (None, read_build_id(path))) or inputs.symbols
