# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect zones``."""

from __future__ import annotations

from mminspect.cli.output import stdout
from mminspect.cli.session import Session
from mminspect.commands.zones import zones
from mminspect.kernel.inputs import Inputs
from mminspect.render import json_, table
from mminspect.render.style import style_of


def run(inputs: Inputs, format_: str, user: str) -> None:
    """Write nodes, zones, sections and holes."""
    with Session(inputs, None, user) as session, session.kernel() as kernel:
        data = zones(kernel)
    if format_ == "json":
        json_.write(data, stdout())
    else:
        table.write_overview(data, stdout(), style_of(stdout()).width)
