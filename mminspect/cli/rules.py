# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect rules``."""

from __future__ import annotations

from mminspect.cli.output import stdout
from mminspect.kernel.inputs import Inputs
from mminspect.render import json_, table
from mminspect.render.style import style_of
from mminspect.rules.catalog import catalog_of, load_catalog


def run(inputs: Inputs, rule: str | None, format_: str) -> None:
    """Write the catalog of rules, or all about one."""
    data = [catalog_of(rule)] if rule else load_catalog()
    if format_ == "json":
        json_.write(data, stdout())
    elif rule:
        table.write_rule(data[0], stdout())
    else:
        table.write_rules(data, stdout(), style_of(stdout()).width)
