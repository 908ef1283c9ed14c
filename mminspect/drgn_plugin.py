# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A drgn plugin: the command ``%mminspect`` in a drgn session.

drgn loads it through the entry point ``drgn.plugins``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, Callable, TextIO, cast

from drgn import Program
from drgn.commands import argument, command

from mminspect.commands import map as maps
from mminspect.commands.page import pages
from mminspect.commands.page_argument import parse
from mminspect.commands.zones import zones
from mminspect.errors import MminspectError
from mminspect.kernel.kernel import from_program
from mminspect.memorymap.map import MemoryMap
from mminspect.program.text import Guarded, one_line
from mminspect.render.map import write_map
from mminspect.render.page import write_pages
from mminspect.render.report import write_report
from mminspect.render.style import Style, style_of
from mminspect.render.table import write_overview, write_rule, write_rules
from mminspect.rules.catalog import catalog_of, load_catalog
from mminspect.rules.registry import select_rules
from mminspect.walk.picture import Picture
from mminspect.walk.scan import scan

# Cells that a screen has, at most.
SCREEN_CELLS = 1 << 13


def _scan(prog: Program, what: str | None, out: TextIO, style: Style) -> object:
    report = scan(from_program(prog), select_rules([what] if what else []))
    write_report(report, out, style)
    return report


def _zones(prog: Program, what: str | None, out: TextIO, style: Style) -> object:
    data = zones(from_program(prog))
    write_overview(data, out, style.width)
    return data


def _page(prog: Program, what: str | None, out: TextIO, style: Style) -> object:
    if what is None:
        raise MminspectError("give a pfn, a range or an address: %mminspect page 0x1000")
    kernel = from_program(prog)
    data = pages(kernel, parse(kernel, what))
    write_pages(data, out, style.width)
    return data


def _map(prog: Program, what: str | None, out: TextIO, style: Style) -> object:
    kernel = from_program(prog)
    memory = kernel.memory
    span = maps.clip_range(memory.online_ranges(), maps.parse_range(what)) if what else None
    low, high = span or (0, 1 << 64)
    online = sum(max(0, min(end, high) - max(start, low)) for start, end in memory.online_ranges())
    finest = min((online // SCREEN_CELLS).bit_length(), memory.layout.pageblock_order)
    order = maps.cell_order(memory, span, finest)
    made: list[Picture] = []

    def observe(seen: MemoryMap) -> Picture:
        made.append(Picture(seen, order, span))
        return made[-1]

    report = scan(kernel, select_rules(), observe=observe)
    data = maps.make_map(made[-1], report)
    write_map(data, "state", out, style)
    return data


def _rules(prog: Program, what: str | None, out: TextIO, style: Style) -> object:
    if what is not None:
        data = catalog_of(what)
        write_rule(data, out)
        return data
    entries = load_catalog()
    write_rules(entries, out, style.width)
    return entries


ACTIONS: Mapping[str, Callable[[Program, str | None, TextIO, Style], object]] = {
    "scan": _scan,
    "zones": _zones,
    "page": _page,
    "map": _map,
    "rules": _rules,
}


@command(
    description="check the kernel's memory map",
    usage="**mminspect** [**scan**|**zones**|**page**|**map**|**rules**] [*what*]",
    long_description="""
    Walk every pageblock of the kernel that is being debugged and report where the memory map breaks an assumption
    of kernel code; show its zones, a page, or a picture of it; explain the rules. Returns what is shown.
    """,
    arguments=(
        argument("action", choices=list(ACTIONS), nargs="?", default="scan", help="what to do"),
        argument("what", nargs="?", help="a rule (scan, rules), a pfn, range or address (page), a range of pfns (map)"),
    ),
)
def _cmd_mminspect(prog: Program, name: str, args: argparse.Namespace, **kwargs: Any) -> object:
    out = cast(TextIO, Guarded(sys.stdout))
    try:
        return ACTIONS[args.action](prog, args.what, out, style_of(sys.stdout))
    except MminspectError as e:
        print(f"mminspect: {one_line(str(e))}", file=sys.stderr)
        return None
