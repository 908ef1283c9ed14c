# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables for people."""

from itertools import islice
from typing import IO, Any, Dict, List, Optional, Sequence, Tuple

import click

from mminspect.findings import ERROR, NOTE, WARNING, Finding, Report

COLORS = {ERROR: "red", WARNING: "yellow", NOTE: "cyan"}

# Nobody reads more findings than this in a table.
MAX_FINDINGS = 1000

# A message column narrower than this is no longer readable; then the lines are longer than the terminal.
MIN_MESSAGE_WIDTH = 24


def write_table(
    rows: Sequence[Sequence[Any]], headers: Sequence[str], out: IO[str], width: Optional[int] = None
) -> None:
    """
    Write a table; its last column takes what is left of the width.

    :param width: Columns of the terminal, or ``None`` for no limit.
    """
    # Imported late: it takes longer than all else that other formats need.
    from tabulate import tabulate

    limits: List[Optional[int]] = [None] * len(headers)
    if width is not None and rows:
        plain = [[len(click.unstyle(str(value))) for value in row] for row in rows]
        # tabulate makes a column two wider than its header.
        used = sum(max([len(header) + 2, *column]) for header, column in zip(headers[:-1], zip(*plain)))
        limits[-1] = max(MIN_MESSAGE_WIDTH, width - used - 2 * (len(headers) - 1))
    # Numbers stay as they are written; "0x10" and "1e5" are no numbers to tabulate.
    text = tabulate(rows, headers, tablefmt="simple", maxcolwidths=limits, disable_numparse=True)
    out.write(text + "\n")


def write_pairs(pairs: Dict[str, Any], out: IO[str]) -> None:
    """Write names and values, one pair a line."""
    from tabulate import tabulate

    out.write(tabulate(list(pairs.items()), tablefmt="plain", disable_numparse=True) + "\n")


def hex_range(start: int, end: int) -> str:
    """Format a pfn range."""
    return f"{start:#x}-{end:#x}"


def _plural(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def write_report(report: Report, out: IO[str], width: Optional[int], color: bool) -> None:
    """Write target, findings and summary."""
    target, summary = report.target, report.summary
    order = target["pageblock_order"]
    out.write(
        f"{target['release']} {target['machine']}, {target['memory_model']}, pages of {target['page_size']}, "
        f"pageblocks of order {order} ({target['pageblock_order_from']}), types from {target['types_from']}\n\n"
    )
    if report.findings:
        rows = []
        for finding in islice(report.findings, MAX_FINDINGS):
            pfns = hex_range(finding.start_pfn, finding.end_pfn)
            rows.append((_severity(finding, color), finding.rule, pfns, finding.message))
        write_table(rows, ("severity", "rule", "pfns", "message"), out, width)
        more = len(report.findings) - MAX_FINDINGS
        if more > 0:
            out.write(f"{_plural(more, 'more finding')} not shown; --format json, ndjson or csv has all of them\n")
        out.write("\n")
    counts = ", ".join(_plural(number, severity) for severity, number in summary["by_severity"].items())
    unread = summary["pages_unreadable"]
    out.write(
        f"{counts}; {_plural(summary['pages_examined'], 'page')} in "
        f"{_plural(summary['pageblocks'], 'pageblock')} examined"
        f"{f', {unread:,} unreadable' if unread else ''} in {summary['elapsed_seconds']:.2f} s\n"
    )
    if summary.get("transient"):
        out.write(f"{_plural(summary['transient'], 'finding')} not shown: a second read didn't show them again\n")
    if summary.get("partial"):
        out.write("stopped early: not all of memory was examined\n")


def write_changes(changes: Sequence[Tuple[str, Finding]], out: IO[str], width: Optional[int], color: bool) -> None:
    """Write what is new and what is gone, as ``mminspect watch`` shows it."""
    rows = [
        (event, _severity(finding, color), finding.rule, hex_range(finding.start_pfn, finding.end_pfn), finding.message)
        for event, finding in changes
    ]
    write_table(rows, ("event", "severity", "rule", "pfns", "message"), out, width)


def _severity(finding: Finding, color: bool) -> str:
    return click.style(finding.severity, fg=COLORS[finding.severity]) if color else finding.severity


def write_overview(data: Dict[str, Any], out: IO[str], width: Optional[int]) -> None:
    """Write what ``mminspect zones`` shows."""
    out.write("Nodes\n")
    rows: List[Sequence[Any]] = [
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


def write_rules(data: Sequence[Dict[str, Any]], out: IO[str], width: Optional[int]) -> None:
    """Write the catalogue, a line per rule."""
    write_table([(r["id"], r["summary"]) for r in data], ("rule", "what it finds"), out, width)
    out.write("\n'mminspect rules RULE' tells all about one.\n")


def write_rule(data: Dict[str, Any], out: IO[str]) -> None:
    """Write all about one rule."""
    out.write(f"{data['id']}: {data['summary']}\n\n{data['documentation']}\n")
    if data["functions"]:
        out.write("\nKernel functions that rely on it:\n")
        out.writelines(f"  {name}\n" for name in data["functions"])
    if data["commits"]:
        out.write("\nKnown commits:\n")
        out.writelines(f'  {c["hash"]} ("{c["title"]}"): {c["what"]}\n' for c in data["commits"])


def write_pages(data: Dict[str, Any], out: IO[str], width: Optional[int]) -> None:
    """Write what ``mminspect page`` shows: a block per page."""
    if data["understood_as"] != "pfn":
        out.write(f"There is no such online pfn: taken for a {data['understood_as']}.\n\n")
    for number, page in enumerate(data["pages"]):
        if number:
            out.write("\n")
        _write_page(page, out, width)


def _write_page(page: Dict[str, Any], out: IO[str], width: Optional[int]) -> None:
    block, order = page["pageblock"]
    pairs: Dict[str, Any] = {
        "pfn": f"{page['pfn']:#x} ({page['pfn']})",
        "physical address": f"{page['physical_address']:#x}",
        "struct page": f"{page['struct_page']:#x}",
        "state": page["state"],
    }
    if "link" in page:
        link = page["link"]
        pairs["links to"] = f"node {link['node']} zone {link['zone'] or 'id ' + str(link['zone_id'])}"
    spanned = ", ".join(f"node {node} zone {name}" for node, _, name in page["spanned_by"])
    pairs["spanned by"] = spanned or "no zone"
    if page["section"] is not None:
        pairs["section"] = f"{page['section']} ({' '.join(page['section_flags'])})"
    pairs["pageblock"] = f"{block:#x}, order {order}"
    if page.get("bitmap"):
        bits = [str(page["migratetype"])]
        bits += [name for name in ("skip", "isolate") if page.get(f"pageblock_{name}")]
        pairs["migratetype"] = " ".join(bits)
        pairs["bitmap index"] = f"{page['bitmap_index']} of {page['bitmap_limit']}, word at {page['bitmap_word']:#x}"
    if "words" in page:
        pairs["flags"] = page["flags"] or "none"
        pairs["refcount, mapcount"] = f"{page['refcount']}, {page['mapcount']}"
        if "compound" in page:
            pairs["compound"] = ", ".join(f"{key} {value}" for key, value in page["compound"].items())
        for start in range(0, len(page["words"]), 4):
            pairs["words" if start == 0 else f"  +{start}"] = " ".join(page["words"][start : start + 4])
    write_pairs(pairs, out)
    if page.get("consequences"):
        out.write("\nWhat the kernel would do\n")
        rows = [(c["function"], c["outcome"], c["why"]) for c in page["consequences"]]
        write_table(rows, ("function", "outcome", "why"), out, width)
    out.write("\nRules that it breaks, in its pageblock\n")
    rows = [(f["severity"], f["rule"], f["message"]) for f in page["findings"]]
    if rows:
        write_table(rows, ("severity", "rule", "message"), out, width)
    else:
        out.write("none\n")
