# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results as a page, with the project's own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from contrib.explore import board
from contrib.explore.describe import describe, title
from contrib.explore.layout import Layout, dumps
from contrib.explore.qemu import command
from contrib.explore.store import Store
from mminspect.render.html import assembled, color, table, text
from mminspect.render.marks import ZONE_COLORS
from mminspect.render.strips import Lane, Range, strip

COLORS = {
    board.RAM: "#5aa9d6",
    board.RESERVED: "#8a8a8a",
    board.ACPI: "#d6a85a",
    board.NVS: "#b07a30",
    board.UNUSABLE: "#8a5a44",
    board.PMEM: "#7a5ad6",
    board.PRAM: "#a58ae0",
    board.SOFT_RESERVED: "#d65a9b",
    board.NO_MAP: "#6a6a6a",
    board.MIRRORED: "#3d7fb0",
}
INK = "#111111"


def picture(layout: Layout, label: str) -> str:
    """Draw a layout: what firmware says of memory, and its nodes."""
    lanes: list[Lane] = [
        (title(layout), [_part(one.start, one.end, COLORS[one.type], INK, one.type) for one in layout.e820])
    ]
    if layout.srat:
        nodes = [
            _part(one.start, one.end, *map(color, ZONE_COLORS[one.node % len(ZONE_COLORS)]), f"node {one.node}")
            for one in layout.srat
        ]
        lanes.append(("SRAT" if layout.board.is_pc else "nodes", nodes))
    if layout.devices:
        plugged = [_part(one.start, one.end, "#5ad68a", INK, f"{one.kind}, node {one.node}") for one in layout.devices]
        lanes.append(("plugged in after boot", plugged))
    return strip(lanes, label)


def _part(start: int, end: int, background: str, ink: str, what: str) -> Range:
    return Range(start, end, background, f"{what} {start:#x}-{end:#x}", what, ink)


def write_layout(layout: Layout, name: str, kernel: Path | None, out: IO[str]) -> None:
    """Write a page of one layout."""
    body = [f"<h1>{text(name)}</h1>", picture(layout, name), *_words(layout, kernel)]
    out.write(assembled(f"layout {name}", "\n".join(body)))


def write_results(store: Store, name: str, kernel: Path, out: IO[str]) -> None:
    """Write a page of what a kernel showed: a table of its signatures, then each with its minimal layout."""
    count, cpu = store.cost(name)
    found = store.signatures(name)
    body = [
        f"<h1>{len(found)} signatures of {count:,} layouts</h1>",
        f'<p class="about">{text(name)}; {cpu / max(count, 1):.2f} CPU seconds a layout</p>',
        table(
            ("severity", "layouts", "signature", "example"),
            ((one.severity, one.layouts, one.signature, one.example) for one in found),
        ),
    ]
    for one in found:
        if one.minimal is None:
            continue
        sure = f"; {one.confirmed}" if one.confirmed else ""
        body += [
            f"<h2>{text(one.signature)}</h2>",
            f"<p>{text(one.example)}</p>",
            f"<p>Minimal layout, after {one.boots} boots{text(sure)}:</p>",
            picture(one.minimal, one.signature),
            *_words(one.minimal, kernel),
        ]
    out.write(assembled(f"layouts of {name}", "\n".join(body)))


def _words(layout: Layout, kernel: Path | None) -> Sequence[str]:
    shown = [describe(layout), dumps(layout)]
    shown += [command(layout, kernel)] if kernel else []
    return [f'<pre class="wide">{text_of_lines(part)}</pre>' for part in shown]


def text_of_lines(lines: str) -> str:
    """Escape a text of several lines."""
    return "\n".join(text(line) for line in lines.split("\n"))
