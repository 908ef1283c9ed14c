# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect map``."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import IO, Any

import click

from mminspect.cli.output import check_writable, open_output
from mminspect.cli.pages import cell_order, command_line
from mminspect.cli.session import Session, picture_with_progress
from mminspect.commands import map as maps
from mminspect.commands.saved import as_map, load, relied_on
from mminspect.errors import MminspectError
from mminspect.kernel.inputs import Inputs
from mminspect.render import json_
from mminspect.render.html import write_page
from mminspect.render.map import write_map
from mminspect.render.style import Style, style_of
from mminspect.rules.registry import select_rules
from mminspect.walk.limits import Limits

# A screen has fewer cells than this; the terminal's picture needs no finer ones.
SCREEN_CELLS = 1 << 13


def run(
    inputs: Inputs,
    pages: str | None,
    format_: str,
    by: str | None,
    width: int | None,
    from_: str | None,
    output: str | None,
    max_rate: int | None,
    user: str,
    jobs: int | None,
) -> None:
    """Draw the memory map of a kernel, or one that was saved."""
    span = None if pages is None else maps.parse_range(pages)
    if from_ is not None:
        if inputs.core is not None or inputs.qemu is not None:
            raise click.UsageError("--from draws what was saved; -c and --qemu go without it")
        if not from_:
            raise MminspectError("the name of the saved map is empty")
        if max_rate is not None or jobs is not None or inputs.pageblock_order is not None:
            raise click.UsageError(
                "--from draws what was saved; --jobs, --max-rate and --pageblock-order go without it"
            )
        check_writable(output, [from_])
        # Where it is damaged, nothing must be half written.
        text = io.StringIO()
        with open_output(output) as out:
            with relied_on([from_]):
                _draw_saved(from_, span, format_, by, text, _style(out, width))
            out.write(text.getvalue())
        return
    with Session(inputs, output, user) as session, session.kernel() as kernel:
        # The struct pages of devices aren't read where the kernel runs.
        memory = kernel.memory_for(device=not kernel.is_live)
        if span is not None:
            span = maps.clip_range([*memory.online_ranges(), *maps.device_ranges(memory)], span)
        if format_ == "html":
            order = cell_order(memory, span)
        else:
            finest = None if format_ == "json" else _finest(memory.layout.pageblock_order, memory.online_ranges(), span)
            order = maps.cell_order(memory, span, finest)
        with_picture = picture_with_progress(kernel, select_rules(), Limits(max_rate, None, jobs), order, span)
        data = maps.make_map(*with_picture)
        with session.output() as out:
            _write(data, format_, by or "state", out, _style(out, width))


def _draw_saved(
    path: str, span: tuple[int, int] | None, format_: str, by: str | None, out: IO[str], style: Style
) -> None:
    """Draw a map that was saved, or what a report has of one."""
    saved = load(path)
    data = as_map(saved)
    if span is not None:
        data = maps.clip_map(data, span)
    by = by or ("state" if data["classes"] else "zone")
    if by != "zone" and not data["classes"]:
        raise MminspectError(f"{path}: a report; it has zones and findings only: use --by zone")
    _write(data, format_, by, out, style)


def _finest(pageblock_order: int, online: Iterable[tuple[int, int]], span: tuple[int, int] | None) -> int:
    """Get the order of the smallest cells that a screen can show."""
    low, high = span or (0, 1 << 64)
    pages = sum(max(0, min(end, high) - max(start, low)) for start, end in online)
    return min(max(0, (pages // SCREEN_CELLS).bit_length()), pageblock_order)


def _style(out: IO[str], width: int | None) -> Style:
    style = style_of(out)
    # Half blocks need more than ASCII.
    return Style(width or style.width, style.color and "utf" in (getattr(out, "encoding", None) or "utf-8").lower())


def _write(data: dict[str, Any], format_: str, by: str, out: IO[str], style: Style) -> None:
    if format_ == "json":
        json_.write_compact(data, "cells", out)
        return
    if format_ == "html":
        write_page(data, out, command_line())
        return
    write_map(data, by, out, style)
