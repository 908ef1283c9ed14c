# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scan the running kernel again and again: python scans.py DIRECTORY COUNT [STOP [ARGUMENT...]].

Each scan is a process of its own, forked from this one, so that the imports are done once. Reports
go to DIRECTORY/scans.ndjson, and DIRECTORY/scan.N appears when scan N begins. The loop ends early
once the file STOP exists. Further arguments are for "mminspect scan".
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import drgn  # noqa: F401
import numpy  # noqa: F401

from mminspect.cli.run import run

ARGUMENTS = ("scan", "--format", "json", "--fail-on", "never")


def child(arguments: Sequence[str], stdout: int, stderr: int) -> NoReturn:
    """Scan, with the report and complaints in two files."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    status = 70
    try:
        run((*ARGUMENTS, *arguments))
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def scan(arguments: Sequence[str]) -> dict[str, Any]:
    """Scan once. Return the exit status, what went to stderr, and the report, None if it failed."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        pid = os.fork()
        if pid == 0:
            child(arguments, stdout.fileno(), stderr.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        stdout.seek(0)
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
        try:
            report = json.loads(stdout.read()) if status == 0 else None
        except ValueError as error:
            report, said = None, f"{said}no report: {error}"
        return {"status": status, "stderr": said, "report": report}


def main(directory: Path, count: int, stop: Path | None, arguments: Sequence[str]) -> None:
    """Scan count times, or until stop exists."""
    with open(directory / "scans.ndjson", "w") as out:
        for number in range(count):
            if stop is not None and stop.exists():
                break
            (directory / f"scan.{number}").touch()
            out.write(json.dumps(scan(arguments)) + "\n")
            out.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None, sys.argv[4:])
