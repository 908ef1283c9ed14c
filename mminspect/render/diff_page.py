# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect diff`` found, as a page: both memory maps under each other, and what differs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import IO, Any

from mminspect.render.diff import write_diff
from mminspect.render.html import assembled, text
from mminspect.render.strips import Lane, Range, findings, memory, span_of, strip, zones
from mminspect.render.style import Style
from mminspect.render.table import plural

CHANGED = "#b45309"


def write_diff_page(data: dict[str, Any], before: Mapping[str, Any], after: Mapping[str, Any], out: IO[str]) -> None:
    """
    Write a page.

    :param data: As :func:`mminspect.commands.diff.diff` returns it.
    :param before: The first side, as a report or map has it; likewise ``after``.
    """
    counts = [
        plural(len(data[key] or ()), f"{name} finding")
        for key, name in (("new", "new"), ("changed", "changed"), ("gone", "gone"))
    ]
    title = ", ".join(counts)
    body = [f"<h1>{text(title)}</h1>"]
    sides = (("before", before, "gone"), ("after", after, "new"))
    # A zone has one color on both sides.
    known = dict.fromkeys((zone["node"], zone["name"]) for _, side, _ in sides for zone in side["zones"])
    numbers = {key: number for number, key in enumerate(known)}
    pictures = {name: _lanes(data, name, side, event, numbers) for name, side, event in sides}
    span = span_of(lane for lanes in pictures.values() for lane in lanes)
    for name, lanes in pictures.items():
        about = data[name]
        body.append(f"<h2>{name.capitalize()}: {text(about['path'] or '?')}</h2>")
        body.append(f'<p class="about">{text(about["release"])} {text(about["machine"])}</p>')
        body.append(strip(lanes, f"The memory map {name}", span))
    told = io.StringIO()
    write_diff(data, told, Style(120))
    body.append(f"<h2>What differs</h2>\n<pre class='wide'>{_lines(told.getvalue())}</pre>")
    out.write(assembled(title, "\n".join(part for part in body if part)))


def _lanes(
    data: Mapping[str, Any],
    name: str,
    side: Mapping[str, Any],
    event: str,
    numbers: Mapping[tuple[int, str], int],
) -> list[Lane]:
    """Make what is drawn of a side: its zones and memory, what changed, and the findings that only it has."""
    changes = data["zones"]
    said = {(zone["node"], zone["name"]): key for key in (event, "changed") for zone in changes[key]}
    lanes = [*zones(side["zones"], numbers, said), *memory(side.get("memory") or ()), *_changes(data, name)]
    if data["changed"]:
        lanes += findings("changed findings", [change[name] for change in data["changed"]])
    return lanes + findings(f"{event} findings", data[event] or ())


def _changes(data: Mapping[str, Any], name: str) -> list[Lane]:
    """Make a lane of where memory became online, offline or absent."""
    ranges = [
        Range(s["start_pfn"], s["end_pfn"], CHANGED, f"{s['before']} before, {s['after']} after", s[name])
        for s in data["sections"] or ()
    ]
    return [("changed memory", ranges)] if ranges else []


def _lines(told: str) -> str:
    return "\n".join(text(line) for line in told.split("\n"))
