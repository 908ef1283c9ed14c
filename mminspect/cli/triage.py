# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect triage``."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

import click

from mminspect.cli.output import say
from mminspect.cli.session import Session
from mminspect.commands.triage.files import Files, status_of, triage_files
from mminspect.commands.triage.inputs import open_streams
from mminspect.errors import MminspectError
from mminspect.kernel.inputs import Inputs
from mminspect.render.style import style_of
from mminspect.render.triage import write_json, write_lines, write_text


def run(inputs: Inputs, files: tuple[str, ...], log: str | None, format_: str, output: str | None, user: str) -> int:
    """Write why kernels died; return the exit status."""
    if files and inputs.core is not None:
        raise click.UsageError("triage reads the files that follow it: leave out -c, or give no other file")
    cores = () if inputs.core is None else (inputs.core,)
    paths = files or cores
    if not paths:
        raise click.UsageError("give at least one vmcore or log")
    if log is not None and len(paths) > 1:
        raise click.UsageError("--log is the log of one vmcore: give just that")
    named = paths if log is None else (*paths, log)
    if named.count("-") > 1:
        raise click.UsageError("the standard input can be read once")
    # A vmcore can't be read from a pipe, so nobody waits for what -c names.
    streams = open_streams([path for path in named if path == "-" or path not in cores])
    results: list[dict[str, Any]] = []
    with Session(inputs, output, user, vmcores=named) as session:
        pieces = () if files else inputs.pieces
        wanted = Files(
            paths, log, cores, streams, lambda path: session.kernel(inputs._replace(core=path, pieces=pieces))
        )
        for result in triage_files(wanted):
            if "error" in result:
                if len(paths) == 1:
                    raise MminspectError(result["error"])
                say(result["error"])
            results.append(result)
        with session.output() as out:
            _WRITERS[format_](results, out)
    return status_of(results)


def _write_text(results: list[dict[str, Any]], out: IO[str]) -> None:
    write_text(results, out, style_of(out).width)


def _write_page(results: list[dict[str, Any]], out: IO[str]) -> None:
    from mminspect.render.triage_page import write_page

    write_page(results, out)


_WRITERS: dict[str, Callable[[list[dict[str, Any]], IO[str]], None]] = {
    "text": _write_text,
    "json": write_json,
    "ndjson": write_lines,
    "html": _write_page,
}
