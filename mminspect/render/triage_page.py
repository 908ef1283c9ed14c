# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``mminspect triage`` tells, as a page: where the pages lie that the kernel named, and all that is said of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import IO, Any

from mminspect.render.html import assembled, table, text
from mminspect.render.strips import Lane, findings, pages, strip, zones
from mminspect.render.triage import headline, write_triage

MAX_PFNS = 100


def write_page(results: Sequence[dict[str, Any]], out: IO[str]) -> None:
    """
    Write a page.

    :param results: As :func:`mminspect.commands.triage.files.triage_files` yields them.
    """
    body = []
    if len(results) > 1:
        rows = [
            (result["path"], result.get("verdict", "error"), result.get("why", result.get("error", "")))
            for result in results
        ]
        body += ["<h1>Triage</h1>", table(("file", "verdict", "why"), rows)]
    for result in results:
        level = "h1" if len(results) == 1 else "h2"
        if "error" in result:
            body.append(f'<{level}>{text(result["path"])}</{level}>\n<p class="bad">{text(result["error"])}</p>')
            continue
        body.append(f"<{level}>{text(headline(result))}</{level}>")
        body.append(f'<p class="about">{text(result["path"])}</p>')
        body.append(strip(_lanes(result), "Where the pages lie that the kernel named"))
        told = io.StringIO()
        write_triage(result, told, 110)
        lines = "\n".join(text(line) for line in told.getvalue().split("\n"))
        body.append(f'<pre class="wide">{lines}</pre>')
    title = results[0]["path"] if len(results) == 1 else f"{len(results)} files"
    out.write(assembled(f"triage: {title}", "\n".join(part for part in body if part)))


def _lanes(result: Mapping[str, Any]) -> list[Lane]:
    boot = result["boot"] or {}
    of_zones = list(result.get("zones") or ())
    lanes = zones(of_zones)
    if not of_zones:
        # A log tells the zones of all nodes together.
        of_zones = [{**zone, "node": 0} for zone in boot.get("zones", ()) if zone["end_pfn"] > zone["start_pfn"]]
        lanes = [("zones", ranges) for _, ranges in zones(of_zones)]
    if not of_zones:
        return []
    named = [item["pfn"] for item in result["evidence"] if "pfn" in item]
    named += (result["crash"] or {}).get("pfns", ())
    last = max(zone["end_pfn"] for zone in of_zones)
    shown = sorted({pfn for pfn in named if pfn < 2 * last})[:MAX_PFNS]
    if shown:
        lanes += pages("named by the kernel", shown)
    wrong = [finding for finding in result["findings"] if finding["end_pfn"] <= 2 * last]
    return lanes + (findings("findings", wrong) if wrong else [])
