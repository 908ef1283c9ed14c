# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect page``."""

from __future__ import annotations

from mminspect.cli.output import stdout
from mminspect.cli.progress import ProgressBar
from mminspect.cli.session import Session
from mminspect.commands import page, page_brief
from mminspect.kernel.inputs import Inputs
from mminspect.render import json_
from mminspect.render import page as text
from mminspect.render.style import style_of


def run(inputs: Inputs, pages: str, format_: str, brief: bool, user: str) -> None:
    """Write what is known of some pages."""
    with Session(inputs, None, user) as session, session.kernel() as kernel, ProgressBar() as bar:
        data = page_brief.brief(kernel, pages) if brief else page.pages(kernel, pages, bar.start)
    if format_ == "json":
        json_.write(data, stdout())
    elif brief:
        text.write_brief(data, stdout(), style_of(stdout()).width)
    else:
        text.write_pages(data, stdout(), style_of(stdout()).width)
