# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What it saves to remember the index of a kernel's types: ``python -m tests.benchmarks.typecache FILE...``.

Prints the CPU seconds of the processes that read the files, with and without, as JSON. The standard input must stay
open: a server ends with it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

from mminspect.fleet import server
from mminspect.fleet.task import Limits
from mminspect.program import late
from mminspect.rules.registry import all_rules
from mminspect.typeinfo import btf_index

TURNS = 2


def read_all(paths: list[str], remembers: bool) -> float:
    """Read files as a worker has them read; return the CPU seconds of the processes."""
    btf_index.hints.clear()
    cpu = 0.0
    for path in paths:
        cpu += float(server.answer(path, os.stat(path).st_size, *Limits())["cpu"])
        if not remembers:
            btf_index.hints.clear()
    return cpu


def main() -> None:
    late.load()
    all_rules()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        # By turns, so that what others do on the machine hits both alike.
        runs = [[read_all(sys.argv[1:], remembers) for remembers in (True, False)] for _ in range(TURNS)]
    print(json.dumps([min(column) for column in zip(*runs)]))


if __name__ == "__main__":
    main()
