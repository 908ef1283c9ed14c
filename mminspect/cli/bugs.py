# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect bugs``."""

from __future__ import annotations

from mminspect.cli.output import stdout
from mminspect.commands.triage.bugs import list_bugs
from mminspect.kernel.inputs import Inputs
from mminspect.render import bugs, json_
from mminspect.render.style import style_of


def run(inputs: Inputs, kernel: str | None, format_: str) -> None:
    """Write the known bugs."""
    data = list_bugs(kernel)
    if format_ == "json":
        json_.write(data, stdout())
    else:
        bugs.write_bugs(data, stdout(), style_of(stdout()).width)
