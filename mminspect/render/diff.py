# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect diff`` shows to people: what matters first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import IO, Any

import click

from mminspect.render.report import MAX_FINDINGS
from mminspect.render.style import Style
from mminspect.render.table import COLORS, hex_range, plural, write_table


def write_diff(data: dict[str, Any], out: IO[str], style: Style) -> None:
    """Write what differs."""
    for name in ("before", "after"):
        side = data[name]
        out.write(f"{name + ':':8}{side['path'] or '?'}: {side['release']} {side['machine']}\n")
    out.write("\n")
    rows = [("new", f, f["message"]) for f in data["new"]]
    rows += [("changed", change["after"], _what(change["what"])) for change in data["changed"]]
    rows += [("gone", f, f["message"]) for f in data["gone"] or ()]
    _write_findings(rows, out, style)
    if data["gone"] is None:
        out.write("The second side doesn't list all its findings; what is gone can't be told.\n\n")
    if data["rules_not_compared"]:
        out.write(f"Applied on one side only, not compared: {', '.join(data['rules_not_compared'])}\n\n")
    if data["layout"]:
        out.write("Layout\n")
        changes = [(key, *_values(key, old, now)) for key, (old, now) in data["layout"].items()]
        write_table(changes, ("", "before", "after"), out, style.width)
        out.write("\n")
    _write_zones(data["zones"], out, style)
    _write_memory(data, out, style)
    if data["range"]:
        out.write(f"Compared: pfns {hex_range(*data['range'])}; a map of a range has no others.\n")
    if not _differs(data):
        out.write(f"No difference; {plural(data['unchanged'], 'finding')} on both sides.\n")


def _differs(data: dict[str, Any]) -> bool:
    zones, holes = data["zones"], data["holes"] or {}
    parts = [data["new"], data["gone"], data["changed"], data["layout"], data["sections"], *zones.values()]
    return any([*parts, *holes.values()])


def _values(key: str, old: Any, now: Any) -> tuple[str, str]:
    """Write two values; of two objects, only what differs."""
    if isinstance(old, dict) and isinstance(now, dict):
        keys = [name for name in {**old, **now} if old.get(name) != now.get(name)]
        return tuple(  # type: ignore[return-value]
            "; ".join(f"{name}: {_plain(side.get(name))}" for name in keys) for side in (old, now)
        )
    return _plain(old), _plain(now)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return "none" if value is None else str(value)


def _what(what: dict[str, Any]) -> str:
    """Write what changed of a finding or a zone."""
    items = []
    for key, (old, now) in what.items():
        if key.endswith("_pfn"):
            items.append(f"{key} {old:#x} -> {now:#x}")
        else:
            items.append(f"{key} {_plain(old)} -> {_plain(now)}")
    return ", ".join(items)


def _write_findings(rows: Sequence[tuple[str, dict[str, Any], str]], out: IO[str], style: Style) -> None:
    if not rows:
        return
    shown = []
    for event, f, text in islice(rows, MAX_FINDINGS):
        severity = click.style(f["severity"], fg=COLORS[f["severity"]]) if style.color else f["severity"]
        shown.append((event, severity, f["rule"], hex_range(f["start_pfn"], f["end_pfn"]), text))
    write_table(shown, ("", "severity", "rule", "pfns", "message"), out, style.width)
    if len(rows) > MAX_FINDINGS:
        out.write(f"{plural(len(rows) - MAX_FINDINGS, 'more finding')} not shown; --format json has all of them\n")
    out.write("\n")


def _write_zones(zones: dict[str, Any], out: IO[str], style: Style) -> None:
    rows = [
        (event, zone["node"], zone["name"], hex_range(zone["start_pfn"], zone["end_pfn"]))
        for event in ("new", "gone")
        for zone in zones[event]
    ]
    rows += [("changed", zone["node"], zone["name"], _what(zone["what"])) for zone in zones["changed"]]
    if rows:
        out.write("Zones\n")
        write_table(rows, ("", "node", "zone", "what"), out, style.width)
        out.write("\n")


def _write_memory(data: dict[str, Any], out: IO[str], style: Style) -> None:
    if data["sections"]:
        out.write("Sections\n")
        rows = [(hex_range(s["start_pfn"], s["end_pfn"]), s["before"], s["after"]) for s in data["sections"]]
        write_table(rows, ("pfns", "before", "after"), out, style.width)
        out.write("\n")
    holes = data["holes"]
    if holes and (holes["new"] or holes["gone"]):
        out.write("Holes in zones\n")
        found = [
            (event, hole["node"], hole["zone"], hex_range(hole["start_pfn"], hole["end_pfn"]))
            for event in ("new", "gone")
            for hole in holes[event]
        ]
        write_table(found, ("", "node", "zone", "pfns"), out, style.width)
        out.write("\n")
    if data["sections"] is None:
        out.write("Sections and holes were not compared: a report doesn't tell them; a map or a vmcore does.\n")
