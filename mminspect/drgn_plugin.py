# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A drgn plugin: the command ``%mminspect scan`` in a drgn session.

drgn loads it through the entry point ``drgn.plugins``.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, TextIO, cast

from drgn import Program
from drgn.commands import argument, command

from mminspect import scan
from mminspect.errors import MminspectError
from mminspect.findings import Report
from mminspect.render.report import write_report
from mminspect.render.style import style_of
from mminspect.text import Guarded, one_line


@command(
    description="check the kernel's memory map",
    usage="**mminspect** **scan**",
    long_description="""
    Walk every pageblock of the kernel that is being debugged and report where the memory map breaks an assumption
    of kernel code. Returns the report.
    """,
    arguments=(argument("action", choices=["scan"], help="what to do"),),
)
def _cmd_mminspect(prog: Program, name: str, args: argparse.Namespace, **kwargs: Any) -> Report | None:
    try:
        report = scan(prog)
    except MminspectError as e:
        print(f"mminspect: {one_line(str(e))}", file=sys.stderr)
        return None
    write_report(report, cast(TextIO, Guarded(sys.stdout)), style_of(sys.stdout))
    return report
