# SPDX-License-Identifier: LGPL-2.1-or-later
"""Triage of files: vmcores and logs, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Callable, NamedTuple

from mminspect.commands.triage.alone import as_dict, judge_log
from mminspect.commands.triage.inputs import read_log_file
from mminspect.commands.triage.run import triage
from mminspect.errors import MminspectError
from mminspect.kernel.kernel import Kernel

# Exit statuses by verdict; all others have 0.
STATUS = {"explained": 1, "possible": 1, "unknown": 2}
# Verdicts that say of a vmcore that nothing was found, which says little if not all of it is there.
NOTHING_FOUND = ("unexplained", "no crash")


class Files(NamedTuple):
    """
    What is triaged.

    :ivar paths: Vmcores and logs; ``-`` is the standard input.
    :ivar log: The log of the only vmcore, in place of what is in the dump.
    :ivar cores: Those that are vmcores, or errors.
    :ivar streams: Those that can be read once, as :func:`~mminspect.commands.triage.inputs.open_streams` returned them.
    :ivar open_core: Opens a vmcore by its path.
    """

    paths: Sequence[str]
    log: str | None
    cores: Sequence[str]
    streams: Mapping[str, int]
    open_core: Callable[[str], AbstractContextManager[Kernel]]


def triage_files(files: Files) -> Iterator[dict[str, Any]]:
    """
    Tell of each file why a kernel died.

    :return: Plain data of each. Of one that can't be analyzed, ``path`` and ``error``.
    """
    for path in files.paths:
        try:
            yield _triage_file(path, files)
        except MminspectError as e:
            yield {"path": path, "error": str(e)}


def _triage_file(path: str, files: Files) -> dict[str, Any]:
    log = None if path in files.cores else read_log_file(path, files.streams)
    if log is not None:
        if files.log is not None:
            raise MminspectError(f"{path}: is a log; --log gives a vmcore another log, so give it with a vmcore")
        return as_dict(path, judge_log(log))
    other = None
    if files.log is not None:
        other = read_log_file(files.log, files.streams)
        if other is None:
            raise MminspectError(f"{files.log}: is a vmcore; give its log with --log")
    with files.open_core(path) as kernel:
        return triage(kernel, other)


def status_of(results: Sequence[dict[str, Any]]) -> int:
    """
    Return the exit status.

    It is 2 if one failed, is unknown, or is a vmcore that is not whole and in which nothing was found; else 1 if one is
    explained or may be, else 0.
    """
    return max((_status(result) for result in results), default=0)


def _status(result: dict[str, Any]) -> int:
    if "error" in result:
        return 2
    if result["verdict"] in NOTHING_FOUND and "incomplete" in (result["target"] or {}):
        return 2
    return STATUS.get(result["verdict"], 0)
