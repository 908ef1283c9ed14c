# SPDX-License-Identifier: LGPL-2.1-or-later
"""A report or a map as a page that needs nothing else: the picture, the findings, and what the kernel looks like."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import pkgutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from mminspect.commands.map import MAX_PFNS
from mminspect.findings import NOTE, SEVERITIES
from mminspect.program.text import one_line
from mminspect.render.json_ import dumps
from mminspect.render.marks import CLASSES as PAGE_CLASSES
from mminspect.render.marks import FINDINGS, FREE_LARGE, FREE_SMALL, MIXED, NO_ZONE, UNREADABLE, Mark, marks_of
from mminspect.render.report import remarks, verdict
from mminspect.render.table import hex_range, plural, without_markup
from mminspect.rules.catalog import load_catalog
from mminspect.rules.registry import select_rules

# Cells of a picture, so that a page stays below 3 MB. A busy machine of 1 TiB has some 2 million pageblocks.
MAX_CELLS = 1 << 15
# Bytes of what is said of findings; the rest of them is left out.
MAX_FINDINGS_SIZE = 1 << 20
# Ranges of findings that are drawn one by one.
MAX_WRONG = 1 << 14
SCRIPT, STYLE = "page.js", "page.css"
# Columns of a cell as the script has them.
START, END, LINK, SPAN, CLASSES, TYPES, LEVEL = range(7)


def text(value: object) -> str:
    """Show text from outside: nothing in it is markup, and what can't be seen is shown."""
    return html.escape(one_line(str(value)))


def color(number: int | None) -> str:
    """Get one of the 256 colors of terminals."""
    if number is None:
        return "#ffffff"
    if number >= 232:
        level = 8 + 10 * (number - 232)
        return f"#{level:02x}{level:02x}{level:02x}"
    number = max(0, number - 16)
    parts = (number // 36, number // 6 % 6, number % 6)
    return "#" + "".join(f"{0 if part == 0 else 55 + 40 * part:02x}" for part in parts)


def _mark(mark: Mark, name: str | None = None) -> dict[str, str]:
    shown = one_line(mark.name if name is None else name)
    return {"letter": mark.letter, "name": shown, "color": color(mark.background), "ink": color(mark.foreground)}


class _Numbers:
    """Numbers the marks of a lane."""

    def __init__(self) -> None:
        self.marks: list[dict[str, str]] = []
        self._numbers: dict[tuple[Mark, str | None], int] = {}

    def of(self, mark: Mark, name: str | None = None) -> int:
        """Get the number of a mark."""
        number = self._numbers.setdefault((mark, name), len(self.marks))
        if number == len(self.marks):
            self.marks.append(_mark(mark, name))
        return number


def _most(found: Iterable[tuple[Mark, int]]) -> Mark:
    return max(found, key=lambda item: item[1])[0]


def coarsened(cells: Sequence[Sequence[Any]], most: int) -> list[list[Any]]:
    """
    Join cells beside each other that link to the same zone and are spanned by the same ones, until there are few.

    Findings keep their own cells as long as that is possible.
    """
    result = [list(cell) for cell in cells]
    pages = 2 * sum(cell[END] - cell[START] for cell in result) // max(1, most)
    while len(result) > most:
        joined: list[list[Any]] = []
        for cell in result:
            last = joined[-1] if joined else None
            if (
                last is not None
                and last[END] == cell[START]
                and last[LINK : SPAN + 1] == cell[LINK : SPAN + 1]
                and cell[END] - last[START] <= pages
                and (last[LEVEL] == cell[LEVEL] or len(cells) > 8 * most)
            ):
                counts = _added(last[CLASSES], cell[CLASSES]), _added(last[TYPES], cell[TYPES])
                joined[-1] = [last[START], cell[END], *last[LINK : SPAN + 1], *counts, max(last[LEVEL], cell[LEVEL])]
            else:
                joined.append(cell)
        if len(joined) == len(result) and pages > result[-1][END]:
            break
        result = joined
        pages *= 2
    return result


def _added(one: Sequence[int], two: Sequence[int]) -> list[int]:
    counts: dict[int, int] = {}
    for kinds in (one, two):
        for kind, number in zip(kinds[::2], kinds[1::2]):
            counts[kind] = counts.get(kind, 0) + number
    return [value for kind in sorted(counts) for value in (kind, counts[kind])]


def picture(data: Mapping[str, Any]) -> dict[str, Any]:
    """
    Get what the script draws.

    :param data: A map.
    """
    plain = dict(data)
    by_state, by_zone, by_type = (marks_of(plain, by) for by in ("state", "zone", "migratetype"))
    states, zones, spans, types = _Numbers(), _Numbers(), _Numbers(), _Numbers()
    names = [f"node {zone['node']} {zone['name']}" for zone in data["zones"]]
    span_numbers = []
    for span in data["spans"]:
        if len(span) == 1:
            zone = data["zones"][span[0]]
            alone: list[Any] = [0, 1, None, 0, [], [], 0]
            mark = marks_of({**plain, "links": [], "spans": [span]}, "zone").of(alone)[0][0]
            span_numbers.append(spans.of(mark, f"node {zone['node']} {zone['name']}"))
        else:
            several = " and ".join(names[n] for n in span)
            span_numbers.append(spans.of(MIXED if span else NO_ZONE, several or "no zone"))
    cells = []
    # A report has neither classes nor links.
    has_classes, has_links = bool(data["classes"]), bool(data["links"])
    for cell in coarsened(data["cells"], MAX_CELLS):
        counts = cell[CLASSES] if has_classes else []
        cells.append(
            [
                cell[START],
                cell[END],
                states.of(_most(by_state.of(cell))) if has_classes else 0,
                zones.of(_most(by_zone.of(cell))) if has_links else 0,
                span_numbers[cell[SPAN]],
                types.of(_most(by_type.of(cell))) if data["migratetypes"] else 0,
                cell[LEVEL],
                counts,
            ]
        )
    return {
        "pageSize": data["target"]["page_size"],
        "block": 1 << data["target"]["pageblock_order"],
        "classes": [one_line(name) for name in data["classes"]],
        "states": states.marks,
        "zones": zones.marks,
        "spans": spans.marks,
        "types": types.marks,
        "wrong": _wrong(data),
        "levels": [None, *(_mark(FINDINGS[severity]) for severity in SEVERITIES)],
        "cells": cells,
    }


def _wrong(data: Mapping[str, Any]) -> list[list[int]] | None:
    """Get the ranges that are wrong, each with its level; ``None`` if the findings don't name all of them."""
    findings = data["findings"]
    if data.get("findings_omitted", 0) or any(len(f.get("pfns", ())) >= MAX_PFNS for f in findings):
        return None
    rows = [
        [start, end, 1 + SEVERITIES.index(finding["severity"])]
        for finding in findings
        for start, end in finding.get("pfns", ())
    ]
    return rows if len(rows) <= MAX_WRONG else None


def write_page(
    data: Mapping[str, Any], out: IO[str], command: str, findings: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """
    Write a page.

    :param data: A map.
    :param command: The command that made it.
    :param findings: Findings with their details, the worst first; those of the map by default.
    """
    target, summary = data["target"], data["summary"]
    shown = data["findings"] if findings is None else findings
    omitted = 0
    if data.get("is_range"):
        summary, omitted = {**summary, **_counts(shown)}, data["findings_omitted"]
    drawn = picture(data)
    said = f"{target['release']} {target['machine']}"
    about = (
        f"{said}, {target['memory_model']}, pages of {target['page_size']} bytes, pageblocks of order "
        f"{target['pageblock_order']}. {plural(summary['pages_examined'], 'page')} examined. "
        f"{_shown_range(data)}"
        f"Written {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC."
    )
    body = [
        f"<h1>{text(verdict(summary) if any(summary['by_severity'].values()) else 'No findings')}</h1>",
        *_worst(shown),
        f'<p class="about">{text(about)}</p>',
        *(f'<p class="bad">{text(remark)}</p>' for remark in _limits(target, summary)),
        *_map(drawn),
        *_findings(shown, sum(summary["by_severity"].values()) + omitted),
        *_zones(data),
        *_layout(target),
        f"<h2>How it was made</h2>\n<pre>{text(command)}</pre>",
        f'<script type="application/json" id="data">{_data(drawn)}</script>',
    ]
    out.write(assembled(said, "\n".join(body), _file(SCRIPT) if drawn["cells"] else ""))


def _counts(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count findings as a summary does: a range has some of those of the scan."""
    by_severity = {severity: sum(f["severity"] == severity for f in findings) for severity in reversed(SEVERITIES)}
    known = {
        severity: {
            words: sum(
                f["severity"] == severity and f.get("known") is not None and f["known"]["harmful"] is harmful
                for f in findings
            )
            for words, harmful in (("harmless", False), ("harmful", True))
        }
        for severity in by_severity
    }
    return {"by_severity": by_severity, "known_by_severity": known}


def _shown_range(data: Mapping[str, Any]) -> str:
    return f"Here are pfns {hex_range(data['start_pfn'], data['end_pfn'])} of them. " if data.get("is_range") else ""


def _limits(target: Mapping[str, Any], summary: dict[str, Any]) -> Iterator[str]:
    """Say why there may be more to find than the page has."""
    if "incomplete" in target:
        yield "Not whole: " + target["incomplete"]
    for remark in remarks(summary):
        yield remark[0].upper() + remark[1:]
    applied, usual = summary.get("by_rule", {}), select_rules()
    if any(rule.id not in applied for rule in usual):
        yield f"Only these rules were applied: {', '.join(applied)}"


def _worst(findings: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say what is wrong, in the words of the first finding that is no note and not known to be harmless."""
    for finding in findings:
        if finding["severity"] != NOTE and finding.get("known", {}).get("harmful", True):
            place = hex_range(finding["start_pfn"], finding["end_pfn"])
            yield f"<p><b>{text(finding['rule'])}</b> at {place}: {text(finding['message'])}</p>"
            return


def assembled(title: str, body: str, script: str = "") -> str:
    """
    Put a page together. Its policy lets nothing run and nothing load but what is in it.

    :param body: Markup.
    """
    style = _file(STYLE)
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; base-uri 'none'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}; form-action \'none\'">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>mminspect: {text(title)}</title>",
        f"<style>{style}</style></head>\n<body>\n{body}",
        *([f"<script>{script}</script>"] if script else []),
        "</body></html>\n",
    ]
    return "\n".join(parts)


@functools.cache
def _file(name: str) -> str:
    """Read a file of this package."""
    return (pkgutil.get_data(__package__, name) or b"").decode()


def read_files() -> None:
    """Read what a page is made of, before it can't be read any more."""
    for name in (SCRIPT, STYLE):
        _file(name)


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _data(data: Mapping[str, Any]) -> str:
    """Make JSON that can stand in a script element."""
    return dumps(data).replace(", ", ",").replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _map(drawn: Mapping[str, Any]) -> Iterator[str]:
    if not drawn["cells"]:
        return
    buttons = (("+", "Zoom in", "+"), ("-", "Zoom out", "\u2212"), ("Home", "Show all of memory", "All"))
    more = (("p", "Previous finding", "\u2190 finding"), ("n", "Next finding", "finding \u2192"))
    yield '<h2>The memory map</h2>\n<div class="map needs-script">'
    yield '<div class="tools">'
    for key, label, shown in (*buttons, *more):
        yield f'<button type="button" data-key="{key}" aria-label="{label}" title="{label}">{shown}</button>'
    yield '<output id="view" class="number"></output></div>'
    yield '<canvas id="overview" role="img" aria-label="All of memory; what is shown below is framed"></canvas>'
    yield (
        '<canvas id="map" tabindex="0" role="application" aria-describedby="keys here" aria-label="The memory map: '
        'findings, what pages are, their zones by link and by span, migratetypes"></canvas>'
    )
    yield '<p id="here" class="number" aria-live="polite">Point at the map, or move with the arrow keys.</p></div>'
    yield (
        '<p id="keys" class="about needs-script">Wheel, pinch, + and \u2212 zoom; drag, arrows and Page Up/Down move; '
        "Home shows all; n and p go to the next and previous finding; Enter chooses. #pfn=0x1234 in the address opens "
        "there.</p>"
    )
    order = {mark.name: n for n, mark in enumerate((FREE_LARGE, FREE_SMALL, *PAGE_CLASSES.values(), UNREADABLE))}
    states = sorted(drawn["states"], key=lambda mark: order.get(mark["name"], len(order)))
    parts = (
        ("Findings", drawn["levels"][:0:-1]),
        ("What pages are", states),
        ("Zones", drawn["zones"] or drawn["spans"]),
        ("Migratetypes", drawn["types"]),
    )
    for title, marks in parts:
        if marks:
            yield f'<ul class="legend needs-script" aria-label="{title}"><li class="title">{title}:</li>'
            for mark in marks:
                colors = f'data-color="{mark["color"]}" data-ink="{mark["ink"]}"'
                yield f"<li><b {colors}>{text(mark['letter'])}</b>{text(mark['name'])}</li>"
            yield "</ul>"
    yield '<noscript><p class="about">The picture needs JavaScript. The tables below are all there.</p></noscript>'


def _findings(findings: Sequence[Mapping[str, Any]], number: int) -> Iterator[str]:
    yield f"<h2>Findings ({number:,})</h2>"
    if not findings:
        yield "<p>None.</p>"
        return
    rules = sorted({finding["rule"] for finding in findings})
    yield '<div class="filters needs-script" role="group" aria-label="Filter">'
    for severity in reversed(SEVERITIES):
        count = sum(finding["severity"] == severity for finding in findings)
        yield (
            f'<label><input type="checkbox" name="severity" value="{severity}" checked> '
            f'<span class="{severity}">{plural(count, severity)}</span></label>'
        )
    options = "".join(f'<option value="{text(rule)}">{text(rule)}</option>' for rule in rules)
    yield f'<label>Rule <select id="rule"><option value="">all</option>{options}</select></label></div>'
    yield '<div class="scroll"><table class="cards"><thead><tr><th>severity</th><th>rule</th><th>pfns</th>'
    yield "<th>what is wrong</th></tr></thead><tbody>"
    size = written = 0
    for finding in findings:
        row = _row(finding)
        size += len(row)
        if size > MAX_FINDINGS_SIZE:
            break
        written += 1
        yield row
    yield "</tbody></table></div>"
    if number > written:
        yield f"<p>{plural(number - written, 'more finding')}: --format json has all of them.</p>"
    yield "<h3>What the rules mean</h3>"
    for entry in load_catalog():
        if entry["id"] in rules:
            body = f"{entry['summary']}\n\n{without_markup(entry['documentation'])}"
            yield f"<details><summary>{text(entry['id'])}</summary><pre>{html.escape(body)}</pre></details>"


def _row(finding: Mapping[str, Any]) -> str:
    more = ""
    known = finding.get("known")
    if known:
        harm = "does harm" if known["harmful"] else "harmless"
        more += f"<br>known, {harm}: {text(known['why'])} ({text(known['id'])})"
    consequences = finding.get("detail", {}).get("consequences")
    if consequences:
        rows = "".join(
            f"<tr><td>{text(item['function'])}</td><td>{text(item['outcome'])}</td>"
            f'<td class="wide">{text(item.get("why", ""))}</td></tr>'
            for item in consequences
        )
        head = "<tr><th>function</th><th>outcome</th><th>why</th></tr>"
        more += f"<details><summary>what the kernel would do</summary><table>{head}{rows}</table></details>"
    severity = finding["severity"]
    return (
        f'<tr data-start="{int(finding["start_pfn"])}" data-end="{int(finding["end_pfn"])}" '
        f'data-severity="{severity}" data-rule="{text(finding["rule"])}">'
        f'<td class="{severity}">{severity}</td><td>{text(finding["rule"])}</td>'
        f'<td class="number">{hex_range(finding["start_pfn"], finding["end_pfn"])}</td>'
        f'<td class="wide">{text(finding["message"])}{more}</td></tr>'
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make a table."""
    head = "".join(f"<th>{text(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{text(value)}</td>" for value in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _zones(data: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Zones</h2>"
    yield table(
        ("node", "zone", "id", "pfns", "spanned", "present", "managed", "contiguous"),
        (
            (
                *(zone["node"], zone["name"], zone["index"], hex_range(zone["start_pfn"], zone["end_pfn"])),
                *(f"{zone[key]:,}" if key in zone else "" for key in ("spanned", "present", "managed")),
                {True: "yes", False: "no"}.get(zone.get("contiguous"), ""),
            )
            for zone in data["zones"]
        ),
    )
    yield "<h2>Memory</h2>"
    states = data["memory"]
    yield table(
        ("pfns", "pages", "state"),
        (
            (hex_range(m["start_pfn"], m["end_pfn"]), f"{m['end_pfn'] - m['start_pfn']:,}", m["state"])
            for m in states[:1000]
        ),
    )


def _layout(target: Mapping[str, Any]) -> Iterator[str]:
    layout = target.get("page_flags_layout")
    if not isinstance(layout, Mapping):
        return
    yield "<h2>page-&gt;flags</h2>"
    fields = ((name, layout.get(name)) for name in ("section", "node", "zone"))
    yield table(
        ("field", "shift", "width"),
        (
            (name, field.get("shift", ""), field.get("width", ""))
            for name, field in fields
            if isinstance(field, Mapping)
        ),
    )
