# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run commands and measure what they take."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from tabulate import tabulate


class Table(NamedTuple):
    """
    What was measured of one subject.

    :ivar about: What the numbers mean, in Markdown.
    """

    title: str
    about: str
    headers: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]

    def text(self, form: str) -> str:
        """Format the rows in one of tabulate's forms."""
        return tabulate(self.rows, self.headers, tablefmt=form, disable_numparse=True)


class Run(NamedTuple):
    """What a command took: CPU and wall seconds, and the most memory of a process in MiB."""

    cpu: float
    wall: float
    rss: int
    out: str


def run_once(command: Sequence[str], stdin: str = "", cwd: Path | None = None) -> Run:
    """
    Run a command and measure it.

    :param cwd: Where it runs.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as given:
        given.write(stdin)
        given.seek(0)
        # As installed packages have it, modules are compiled once, not each time.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(command, stdin=given, stdout=out, env=environment, cwd=cwd)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode not in (0, 1):
        raise click.ClickException(f"{' '.join(command)}: exit status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(cpu, time.monotonic() - start, usage.ru_maxrss >> 10, text)


def best(repeat: int, command: Sequence[str], stdin: str = "") -> Run:
    """Run a command a few times and choose the run that took the least CPU time."""
    return min((run_once(command, stdin) for _ in range(repeat)), key=lambda run: run.cpu)


def command(core: Path, *arguments: str, symbols: Path | None = None) -> list[str]:
    """Get a command line of mminspect."""
    options = ("-s", str(symbols)) if symbols is not None else ()
    return [sys.executable, "-m", "mminspect", "-c", str(core), *options, *arguments]


def scan_command(core: Path, jobs: int) -> list[str]:
    """Get the command line of a scan."""
    return command(core, "scan", "--format", "json", "--fail-on", "never", "--jobs", str(jobs))
