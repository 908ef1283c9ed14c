# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect page``."""

from __future__ import annotations

import click

from mminspect.cli.output import stdout
from mminspect.cli.progress import ProgressBar
from mminspect.cli.session import Session
from mminspect.commands import page, page_argument, page_brief, page_slab, page_user
from mminspect.kernel.inputs import Inputs
from mminspect.render import json_
from mminspect.render import page as text
from mminspect.render.style import style_of


def run(inputs: Inputs, pages: str, format_: str, pid: int | None, slab: bool, brief: bool, user: str) -> None:
    """Write what is known of some pages."""
    if pid is not None and slab:
        raise click.UsageError("--pid takes an address of a process, --slab one of the kernel; give one of them")
    with Session(inputs, None, user) as session, session.kernel() as kernel, ProgressBar() as bar:
        if pid is not None:
            meant = page_user.user_page(kernel, pid, pages)
        else:
            meant = page_slab.slab_page(kernel, pages) if slab else page_argument.parse(kernel, pages)
        data = page_brief.brief(kernel, meant) if brief else page.pages(kernel, meant, bar.start)
    if format_ == "json":
        json_.write(data, stdout())
    elif brief:
        text.write_brief(data, stdout(), style_of(stdout()).width)
    else:
        text.write_pages(data, stdout(), style_of(stdout()).width)
