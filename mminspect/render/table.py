# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables for people."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from mminspect.findings import ERROR, NOTE, WARNING, Finding
from mminspect.program.text import one_line
from mminspect.render.json_ import dumps
from mminspect.render.style import Style

if TYPE_CHECKING:
    from mminspect.commands.watch import Changes

COLORS = {ERROR: "red", WARNING: "yellow", NOTE: "cyan"}

# A message column narrower than this is no longer readable; then the lines are longer than the terminal.
MIN_MESSAGE_WIDTH = 24

# A terminal with as many columns as this has room for the table of consequences; in narrower ones it is a list.
WIDE = 100
FUNCTIONS_WIDTH = 34


def write_table(rows: Sequence[Sequence[Any]], headers: Sequence[str], out: IO[str], width: int | None = None) -> None:
    """
    Write a table; its last column takes what is left of the width.

    :param width: Columns of the terminal, or ``None`` for no limit.
    """
    # Imported late: it takes longer than all else that other formats need.
    from tabulate import tabulate

    if width is not None and rows:
        plain = [[len(click.unstyle(str(value))) for value in row] for row in rows]
        # tabulate makes a column two wider than its header.
        used = sum(max([len(header) + 2, *column]) for header, column in zip(headers[:-1], zip(*plain)))
        limit = max(MIN_MESSAGE_WIDTH, width - used - 2 * (len(headers) - 1))
        # tabulate can wrap too, which takes most of the time.
        rows = [(*row[:-1], _wrapped(str(row[-1]), limit)) for row in rows]
    # Numbers stay as they are written; tabulate must not parse "0x10" and "1e5".
    text = tabulate(rows, headers, tablefmt="simple", disable_numparse=True)
    out.write(text + "\n")


def _wrapped(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return "\n".join(line for part in text.splitlines() for line in fold(part, width) or [""])


def fold(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """
    Cut a text into lines at its spaces. A longer word, such as a path, stays whole: it may be copied.

    :param first: What the first line begins with; ``others`` what the others do.
    """
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


# Before a value that is below its name.
BELOW = " " * 6


def write_pairs(pairs: dict[str, Any], out: IO[str], width: int | None = None) -> None:
    """
    Write names and values, one pair a line. Beside names that leave no room, values are on lines of their own.

    :param width: Columns of the terminal, or ``None`` for no limit.
    """
    names = max(map(len, pairs)) + 2
    if width is not None and names + MIN_MESSAGE_WIDTH > width:
        for name, value in pairs.items():
            out.write(f"{name}\n" + "".join(f"{line}\n" for line in fold(str(value), width, BELOW, BELOW)))
        return
    for name, value in pairs.items():
        lines = [str(value)]
        if width is not None:
            lines = fold(str(value), max(MIN_MESSAGE_WIDTH, width - names)) or [""]
        for line in lines:
            out.write(f"{name:<{names}}{line}".rstrip() + "\n")
            name = ""


def hex_range(start: int, end: int) -> str:
    """Format a pfn range."""
    return f"{start:#x}-{end:#x}"


def plural(number: int, name: str) -> str:
    """Format a number of things."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def write_line(text: str, out: IO[str], width: int | None) -> None:
    """Write a line, folded where the terminal is narrower."""
    out.write((text if width is None else "\n".join(fold(text, max(width, 1)))) + "\n")


def write_consequences(data: Sequence[dict[str, Any]], out: IO[str], width: int | None) -> None:
    """Write what kernel functions would do, those that do the same for the same reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in data:
        why = item.get("why", "so many findings of one rule: the reasons are left out; 'mminspect page PFN' has them")
        if "commit" in item:
            commit = f'{item["commit"]["hash"]} ("{item["commit"]["title"]}")'
            why += f". Only the source shows whether this kernel has {commit}"
        if "zone" in item:
            why = f"{item['zone']}: {why}"
        groups.setdefault((item["outcome"], why), []).append(item["function"])
    rows = [(outcome, ", ".join(functions), why) for (outcome, why), functions in groups.items()]
    rows.sort(key=lambda row: row[0] in ("safe", "refuses"))
    if width is None or width >= WIDE:
        shown = [(outcome, textwrap.fill(functions, FUNCTIONS_WIDTH), why) for outcome, functions, why in rows]
        write_table(shown, ("outcome", "functions", "why"), out, width)
        return
    for outcome, functions, why in rows:
        for text in (f"{outcome}: {functions}", why):
            indent = "  " if text == why else ""
            out.write(textwrap.fill(text, width, initial_indent=indent, subsequent_indent="  ") + "\n")


def write_changes(found: Changes, out: IO[str], style: Style) -> None:
    """Write what is new and what is gone, as ``mminspect watch`` shows it: a line for each scan, then its changes."""
    counts = [(event, sum(change.event == event for change in found.changes)) for event in ("new", "gone")]
    changed = ", ".join(f"{count} {event}" for event, count in counts if count) or "nothing new, nothing gone"
    out.write(f"{time.strftime('%Y-%m-%d %H:%M:%S%z', found.when)} {changed}; findings: {found.findings}\n")
    rows = [
        (change.event, severity_of(f, style.color), f.rule, hex_range(f.start_pfn, f.end_pfn), one_line(f.message))
        for change in found.changes
        for f in (change.finding,)
    ]
    if rows:
        write_table(rows, ("event", "severity", "rule", "pfns", "message"), out, style.width)


def severity_of(finding: Finding, color: bool) -> str:
    return click.style(finding.severity, fg=COLORS[finding.severity]) if color else finding.severity


def write_overview(data: dict[str, Any], out: IO[str], width: int | None) -> None:
    """Write what ``mminspect zones`` shows."""
    out.write("Nodes\n")
    rows: list[Sequence[Any]] = [
        (n["node"], hex_range(n["start_pfn"], n["end_pfn"]), n["spanned"], n["present"]) for n in data["nodes"]
    ]
    write_table(rows, ("node", "pfns", "spanned", "present"), out, width)
    out.write("\nZones\n")
    rows = [
        (
            z["node"],
            z["name"],
            z["index"],
            hex_range(z["start_pfn"], z["end_pfn"]),
            z["spanned"],
            z["present"],
            z["managed"],
            "yes" if z["contiguous"] else "no",
        )
        for z in data["zones"]
    ]
    headers = ("node", "zone", "id", "pfns", "spanned", "present", "managed", "contiguous")
    write_table(rows, headers, out, width)
    if data["sections"]:
        out.write("\nSections, valid and online\n")
        rows = [
            (f"{s['first']}-{s['last']}", hex_range(s["start_pfn"], s["end_pfn"]), " ".join(s["flags"]))
            for s in data["sections"]
        ]
        write_table(rows, ("sections", "pfns", "flags"), out, width)
    out.write("\nHoles in zones (no online section)\n")
    rows = [(h["node"], h["zone"], hex_range(h["start_pfn"], h["end_pfn"])) for h in data["holes"]]
    if rows:
        write_table(rows, ("node", "zone", "pfns"), out, width)
    else:
        out.write("none\n")


def write_rules(data: Sequence[dict[str, Any]], out: IO[str], width: int | None) -> None:
    """Write the catalog, a line per rule."""
    write_table([(r["id"], r["summary"]) for r in data], ("rule", "what it finds"), out, width)
    out.write("\n'mminspect rules RULE' shows all about one.\n")


def without_markup(text: str) -> str:
    """Take the marks of code out of a docstring."""
    return text.replace("``", "")


def write_rule(data: dict[str, Any], out: IO[str]) -> None:
    """Write all about one rule."""
    out.write(f"{data['id']}: {data['summary']}\n\n{without_markup(data['documentation'])}\n")
    if data["functions"]:
        out.write("\nKernel functions that rely on it:\n")
        out.writelines(f"  {name}\n" for name in data["functions"])
    if data["commits"]:
        out.write("\nKnown commits:\n")
        out.writelines(f'  {c["hash"]} ("{c["title"]}"): {c["what"]}\n' for c in data["commits"])
    if data["example"]:
        _write_example(data["example"], out)


def _write_example(example: dict[str, Any], out: IO[str]) -> None:
    finding = example["finding"]
    planted = f", where {example['planted']}" if example["planted"] else ""
    where = hex_range(finding["start_pfn"], finding["end_pfn"])
    out.write(f"\nA finding in {example['fixture']}{planted}:\n")
    out.write(f"  {finding['severity']} {where}: {finding['message']}\n")
    out.write(f"  detail: {dumps(finding['detail'])}\n")
