# SPDX-License-Identifier: LGPL-2.1-or-later
"""Triage of files: vmcores and logs, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mminspect.commands.triage.alone import as_dict, judge_log
from mminspect.commands.triage.inputs import core_path, read_log_file
from mminspect.errors import MminspectError
from mminspect.kernel.inputs import Inputs

# Exit statuses by verdict; all others have 0.
STATUS = {"explained": 1, "possible": 1, "unknown": 2}


def triage_files(paths: Sequence[str], inputs: Inputs, log: str | None = None) -> Iterator[dict[str, Any]]:
    """
    Tell of each file why a kernel died.

    :param paths: Vmcores and logs; ``-`` is the standard input.
    :param inputs: How vmcores are opened.
    :param log: The log of the only vmcore, in place of what is in the dump.
    :return: Plain data of each. Of one that can't be analyzed, ``path`` and ``error``.
    """
    for path in paths:
        try:
            yield _triage_file(path, inputs, log)
        except MminspectError as e:
            yield {"path": path, "error": str(e)}


def _triage_file(path: str, inputs: Inputs, log_path: str | None) -> dict[str, Any]:
    # What -c names is a vmcore, or an error.
    log = None if path == inputs.core else read_log_file(path)
    if log is not None:
        if log_path is not None:
            raise MminspectError(f"{path}: is a log; --log gives a vmcore another log, so give it with a vmcore")
        return as_dict(path, judge_log(log))
    # Imported late: logs need neither drgn nor numpy.
    from mminspect.commands.triage.run import triage
    from mminspect.kernel.kernel import open_kernel

    other = None
    if log_path is not None:
        other = read_log_file(log_path)
        if other is None:
            raise MminspectError(f"{log_path}: is a vmcore; give its log with --log")
    with open_kernel(replace(inputs, core=core_path(path))) as kernel:
        return {**triage(kernel, other), "path": path}


def status_of(results: Sequence[dict[str, Any]]) -> int:
    """Return the exit status: 2 if one failed or is unknown, else 1 if one is explained or may be, else 0."""
    return max((2 if "error" in result else STATUS.get(result["verdict"], 0) for result in results), default=0)
