# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pictures that need no script: ranges of pfns as lanes under each other, in SVG."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mminspect.render.html import color, text
from mminspect.render.marks import FINDINGS, ZONE_COLORS, ZONE_LETTERS

# Heights are in pixels, widths in percent: letters stay as large as they are on the narrowest screen.
HEIGHT, LABEL, GAP = 22, 17, 6
# However small a range is, it is seen.
LEAST = 0.3
# Percent of the width that a character of a range's letters takes.
CHARACTER = 1.2
MAX_RANGES = 2000
STATES = {"online": "#5aa9d6", "offline": "#8a5a44", "device": "#7d6bb3", "spanned": "#5aa9d6"}
MARK = "#c2410c"


class Range(NamedTuple):
    """
    A part of a lane.

    :ivar title: What a pointer over it tells.
    :ivar letter: Written on it, in the color ``ink``, if there is room.
    """

    start: int
    end: int
    color: str
    title: str
    letter: str = ""
    ink: str = "#111111"


Lane = tuple[str, Sequence[Range]]


def zones(
    data: Iterable[Mapping[str, Any]],
    numbers: Mapping[tuple[int, str], int] | None = None,
    said: Mapping[tuple[int, str], str] | None = None,
) -> list[Lane]:
    """
    Make a lane of each node's zones: those of one node can overlap those of another.

    :param numbers: By node and name, which letter and color a zone has, if not those of its place.
    :param said: By node and name, what is said of a zone beside its name.
    """
    lanes: dict[int, list[Range]] = {}
    for place, zone in enumerate(data):
        key = zone["node"], zone["name"]
        number = (numbers or {}).get(key, place)
        more = f", {said[key]}" if said and key in said else ""
        name = f"node {zone['node']} {zone['name']}{more}"
        background, ink = map(color, ZONE_COLORS[number % len(ZONE_COLORS)])
        letter = f"{ZONE_LETTERS[number % len(ZONE_LETTERS)]} {zone['name']}{more}"
        found = Range(zone["start_pfn"], zone["end_pfn"], background, name, letter, ink)
        lanes.setdefault(zone["node"], []).append(found)
    return [(f"node {node}", ranges) for node, ranges in sorted(lanes.items())]


def memory(data: Iterable[Mapping[str, Any]]) -> list[Lane]:
    """Make a lane of where memory is."""
    ranges = [
        Range(m["start_pfn"], m["end_pfn"], STATES[m["state"]], m["state"], m["state"])
        for m in data
        if m["state"] in STATES
    ]
    return [("memory", ranges)] if ranges else []


def findings(label: str, data: Iterable[Mapping[str, Any]]) -> list[Lane]:
    """Make a lane of findings, the worst above the others."""
    ordered = sorted(data, key=lambda finding: list(FINDINGS).index(finding["severity"]), reverse=True)
    ranges = [
        Range(
            f["start_pfn"],
            f["end_pfn"],
            color(FINDINGS[f["severity"]].background),
            f"{f['severity']} {f['rule']} {f['start_pfn']:#x}-{f['end_pfn']:#x}",
            FINDINGS[f["severity"]].letter,
        )
        for f in ordered
    ]
    return [(label, ranges)]


def pages(label: str, pfns: Iterable[int]) -> list[Lane]:
    """Make a lane of single pages."""
    return [(label, [Range(pfn, pfn + 1, MARK, f"pfn {pfn:#x}") for pfn in pfns])]


def span_of(lanes: Iterable[Lane]) -> tuple[int, int] | None:
    """Get the pfns from the first to the last that lanes show."""
    ranges = [one for _, found in lanes for one in found if one.end > one.start]
    return (min(one.start for one in ranges), max(one.end for one in ranges)) if ranges else None


def strip(lanes: Sequence[Lane], label: str, span: tuple[int, int] | None = None) -> str:
    """
    Draw lanes over each other, all to one scale.

    :param label: What the picture is, for who can't see it.
    :param span: The pfns to show; by default those of the lanes.
    """
    span = span or span_of(lanes)
    if span is None:
        return ""
    low, high = span
    height = len(lanes) * (LABEL + HEIGHT + GAP) + 20
    parts = [f'<svg width="100%" height="{height}" role="img" aria-label="{text(label)}">']
    for number, (name, found) in enumerate(lanes):
        top = number * (LABEL + HEIGHT + GAP) + LABEL
        parts.append(f'<text x="0" y="{top - 4}">{text(name)}</text>')
        parts.append(f'<rect x="0" y="{top}" width="100%" height="{HEIGHT}" fill="#8884"/>')
        parts += [part for one in found[:MAX_RANGES] for part in _range(one, top, low, high)]
    bottom = height - 4
    parts.append(f'<text x="0" y="{bottom}">{low:#x}</text>')
    parts.append(f'<text x="100%" y="{bottom}" text-anchor="end">{high:#x}</text></svg>')
    return "\n".join(parts)


def _range(one: Range, top: int, low: int, high: int) -> Iterator[str]:
    """Draw a range, and its letters if there is room."""
    scale = 100 / max(1, high - low)
    width = max(LEAST, (one.end - one.start) * scale)
    left = min((one.start - low) * scale, 100 - width)
    place = f'x="{left:.3f}%" y="{top}" width="{width:.3f}%" height="{HEIGHT}"'
    # On a narrow screen, its edge is what is seen of it.
    edge = f' stroke="{one.color}" stroke-width="2"' if width < 1 else ""
    yield f'<rect {place} fill="{one.color}"{edge}><title>{text(one.title)}</title></rect>'
    if one.letter and width > CHARACTER * len(one.letter):
        # What is longer than the range ends with it.
        yield f'<svg {place}><text x="4" y="15" fill="{one.ink}" class="on">{text(one.letter)}</text></svg>'
