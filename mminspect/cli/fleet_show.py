# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect fleet show``."""

from __future__ import annotations

from mminspect.cli.output import check_writable, open_output
from mminspect.fleet.show import groups
from mminspect.kernel.inputs import Inputs
from mminspect.render import json_
from mminspect.render.fleet import WRITERS
from mminspect.render.style import style_of


def run(
    inputs: Inputs, folder: str, by: str, since: int | None, format_: str, output: str | None, width: int | None
) -> None:
    """Write the groups of a fleet."""
    check_writable(output)
    data = groups(folder, by, since)
    with open_output(output) as out:
        if format_ == "json":
            json_.write(data, out)
        else:
            WRITERS[format_](data, out, style_of(out, width))
