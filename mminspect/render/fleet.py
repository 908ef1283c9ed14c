# SPDX-License-Identifier: LGPL-2.1-or-later
"""The groups of a fleet: for people, as CSV, as a page."""

from __future__ import annotations

import csv
import html
import time
from collections.abc import Mapping
from typing import IO, Any

from mminspect.program.text import one_line, shell_word
from mminspect.render.csv_ import harmless
from mminspect.render.style import Style
from mminspect.render.table import plural, write_line, write_pairs

# Groups that people are shown, and releases and reasons of each.
MAX_GROUPS = 20
MAX_SHOWN = 4
COLUMNS = ("key", "files", "verdicts", "first", "last", "releases", "known", "fix", "layouts", "example")


def write_groups(data: Mapping[str, Any], out: IO[str], style: Style) -> None:
    """Write groups, the most telling first, with what to do next."""
    files, width = data["files"], style.width
    write_line(
        f"{plural(files['read'], 'file')} read, {files['failed']:,} failed, {files['skipped']:,} skipped; "
        + (f"{plural(data['copies'], 'more file')} with the same content as one of these; " if data["copies"] else "")
        + f"{plural(len(data['groups']), 'group')} by {data['by']}",
        out,
        width,
    )
    for number, group in enumerate(data["groups"][:MAX_GROUPS], 1):
        out.write("\n")
        out.write(f"{number}. {plural(group['files'], 'file')}: {one_line(group['key'])}\n")
        write_pairs({f"   {name}": one_line(text) for name, text in told(group).items()}, out, width)
        # A command that is folded can't be copied.
        out.write(f"   next       {one_line(next_command(group))}\n")
    more = len(data["groups"]) - MAX_GROUPS
    if more > 0:
        out.write(f"\n{plural(more, 'more group')}; --format json or csv has all of them\n")
    if data["not_read"]:
        out.write("\nNot read\n")
        for item in data["not_read"][:MAX_SHOWN]:
            text = f"  {item['files']:,} {item['status']}: {item['error']}; for example {item['example']}"
            write_line(one_line(text), out, width)
        others = data["not_read"][MAX_SHOWN:]
        if others:
            files = sum(item["files"] for item in others)
            out.write(f"  {plural(files, 'file')} for {plural(len(others), 'more reason')}; --format json has them\n")


def told(group: Mapping[str, Any]) -> dict[str, str]:
    """Get what is said of a group."""
    return {
        "verdict": _listed(group["verdicts"], group["files"]),
        **({} if group["known"] else {"why": group["why"]}),
        "known bug": f"{', '.join(group['known'])}; {group['fix']}" if group["known"] else "none",
        "releases": _listed(group["releases"], group["files"]),
        "seen": f"{day(group['first'])} to {day(group['last'])}",
        **({"machines": machines(group)} if group["layouts"] else {}),
        "example": group["example"],
    }


def next_command(group: Mapping[str, Any]) -> str:
    """Get the command that tells more of a group."""
    return f"mminspect triage {_word(group['example'])}"


def _word(name: str) -> str:
    """Quote a path for a shell. The name of a path that isn't UTF-8 is quoted already."""
    return name if name.startswith("$'") else shell_word(name)


def machines(group: Mapping[str, Any]) -> str:
    """Say what memory the machines of a group have."""
    layouts = group["layouts"]
    known = sum(layouts.values())
    if len(layouts) == 1:
        of = "all" if known == group["files"] else "those whose memory is known, all"
        return f"{of} {known:,} have {next(iter(layouts))}" if known > 1 else next(iter(layouts))
    return _listed(layouts, known)


def _listed(counts: Mapping[str, int], total: int) -> str:
    if len(counts) == 1 and next(iter(counts.values())) == total:
        return next(iter(counts))
    shown = [f"{name} ({number:,})" for name, number in list(counts.items())[:MAX_SHOWN]]
    return "; ".join([*shown, *([f"{len(counts) - MAX_SHOWN} more"] if len(counts) > MAX_SHOWN else [])])


def day(seconds: int | None) -> str:
    """Format a time as its day, in UTC."""
    if seconds is None or not 0 <= seconds < 1 << 34:
        return "unknown"
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def write_csv(data: Mapping[str, Any], out: IO[str], style: Style) -> None:
    """Write a line a group."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group in data["groups"]:
        counts = {key: _listed(group[key], group["files"]) for key in ("verdicts", "releases", "layouts")}
        row = {**group, **counts, "known": " ".join(group["known"]), "fix": group["fix"] or ""}
        writer.writerow([harmless(row[column]) for column in COLUMNS])


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>mminspect fleet</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }}
section {{ border-top: 1px solid #bbb; padding: 1rem 0; }}
h2 {{ font-size: 1.05rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: 7rem 1fr; gap: .2rem 1rem; margin: 0; }}
dt {{ color: #555; }} dd {{ margin: 0; overflow-wrap: anywhere; }}
@media (max-width: 30rem) {{ dl {{ grid-template-columns: 1fr; }} }}
@media (prefers-color-scheme: dark) {{ body {{ background: #16181c; color: #e6e6e6; }} dt {{ color: #aaa; }} }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def write_html(data: Mapping[str, Any], out: IO[str], style: Style) -> None:
    """Write a page that needs nothing else."""
    files = data["files"]
    title = f"{plural(files['read'], 'file')} read, {files['failed']:,} failed, {files['skipped']:,} skipped"
    parts = []
    for number, group in enumerate(data["groups"], 1):
        about = {**told(group), "next": next_command(group)}
        items = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in about.items())
        head = _text(f"{number}. {plural(group['files'], 'file')}: {group['key']}")
        parts.append(f"<section><h2>{head}</h2><dl>{items}</dl></section>")
    for item in data["not_read"]:
        text = f"{item['files']:,} {item['status']}: {item['error']}; for example {item['example']}"
        parts.append(f"<section>{_text(text)}</section>")
    out.write(_PAGE.format(title=_text(title), body="\n".join(parts)))


def _text(text: str) -> str:
    return html.escape(one_line(text))


WRITERS = {"table": write_groups, "csv": write_csv, "html": write_html}
