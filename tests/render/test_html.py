# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages: what is in them, that nothing in them runs or loads but their own script, and how large they get."""

from __future__ import annotations

import html.parser
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mminspect.render.html import MAX_CELLS, coarsened, color, write_page
from tests.conftest import Cli, Unpacked
from tests.kit.support import AMD64_400M, AMD64_NUMA, I386_HOLE, NAMES

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028\x1b[2J\u202e&amp;\"'"


class Parsed(html.parser.HTMLParser):
    """What is in a page: its elements with their attributes, its text, and the data for the script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.data: Any = None
        self._in: list[str] = []
        self._kind: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._kind = dict(attrs).get("type")
        self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._in:
            while self._in.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1] == "script":
            if self._kind == "application/json":
                self.data = json.loads(data)
        elif not self._in or self._in[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_harmless(page: str) -> Parsed:
    """Check that a page is a page and loads nothing."""
    parsed = Parsed(page)
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") <= 2 and "img" not in tags and "iframe" not in tags and "link" not in tags
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") or name in ("src", "href", "style", "action") for name in attributes)
    policy = next(a["content"] for tag, a in parsed.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    assert not re.search(r"url\(|@import", page)
    assert page.isascii() or not re.search("[\u202a-\u202e\u2028\u2029\x00-\x08\x0b-\x1f]", page)
    return parsed


@pytest.mark.parametrize("name", NAMES)
def test_page_has_what_the_report_has(name: str, cli: Cli, unpacked: Unpacked) -> None:
    done = cli("scan", unpacked(name), "--format", "html")
    report = cli("scan", unpacked(name), "--format", "json").json()
    assert done.status == (1 if report["summary"]["by_severity"]["error"] else done.status)
    parsed = check_harmless(done.out)
    rows = [attributes for tag, attributes in parsed.elements if tag == "tr" and "data-start" in attributes]
    assert sorted((int(row["data-start"] or 0), int(row["data-end"] or 0), row["data-rule"]) for row in rows) == sorted(
        (finding["start_pfn"], finding["end_pfn"], finding["rule"]) for finding in report["findings"]
    )
    for finding in report["findings"]:
        assert " ".join(finding["message"].split()) in parsed.text
    for zone in report["zones"]:
        assert f"{zone['start_pfn']:#x}-{zone['end_pfn']:#x}" in parsed.text
    assert report["target"]["release"] in parsed.text


def test_page_says_first_what_is_wrong_and_what_colors_mean(cli: Cli, unpacked: Unpacked) -> None:
    page = cli("scan", unpacked(I386_HOLE), "--format", "html").out
    first = page[page.index("</h1>") :].split("</p>")[0]
    assert "<b>mixed-zone</b> at 0xa000-0xa200: pageblock links to node 0 zone Normal" in first
    legends = re.findall(r'<ul class="legend[^>]*aria-label="([^"]*)".*?</ul>', page, re.DOTALL)
    assert legends == ["Findings", "What pages are", "Zones", "Migratetypes"]
    assert re.findall(r"</b>(error|warning|note)</li>", page) == ["error", "warning", "note"]
    harmless = cli("scan", unpacked(AMD64_NUMA), "--select", "zone-span", "--format", "html").out
    assert "<b>zone-span</b>" not in harmless


def test_cells_are_those_of_the_map(cli: Cli, unpacked: Unpacked) -> None:
    drawn = Parsed(cli("map", "-c", unpacked(AMD64_NUMA), "--format", "html").out).data
    saved = cli("map", "-c", unpacked(AMD64_NUMA), "--format", "json").json()
    # Each page is in one cell, and each finding has its pages.
    assert sum(cell[1] - cell[0] for cell in drawn["cells"]) == sum(cell[1] - cell[0] for cell in saved["cells"])
    worst = {(start, end): level for start, end, *_, level, _ in drawn["cells"] if level}
    for finding in saved["findings"]:
        for start, end in finding["pfns"]:
            level = 1 + ("note", "warning", "error").index(finding["severity"])
            covered = sum(max(0, min(end, e) - max(start, s)) for (s, e), seen in worst.items() if seen >= level)
            assert covered == end - start, finding["rule"]
    zones = {mark["name"] for mark in drawn["zones"]}
    assert {f"node {zone['node']} {zone['name']}" for zone in saved["zones"]} <= zones
    assert (drawn["pageSize"], drawn["block"]) == (4096, 512)


def test_saved_map_and_report_are_drawn_without_a_target(cli: Cli, unpacked: Unpacked, tmp_path: Any) -> None:
    saved, report = tmp_path / "map.json", tmp_path / "report.json"
    assert cli("map", "-c", unpacked(I386_HOLE), "--format", "json", "-o", saved).status == 0
    assert cli("scan", unpacked(I386_HOLE), "--format", "json", "-o", report).status == 1
    for path in (saved, report):
        done = cli("map", "--from", path, "--format", "html")
        assert done.status == 0
        parsed = check_harmless(done.out)
        assert "bitmap-bounds" in parsed.text and parsed.data["cells"]


def test_hostile_text_is_text(cli: Cli, unpacked: Unpacked) -> None:
    data = cli("map", "-c", unpacked(AMD64_400M), "--format", "json").json()
    data["target"].update(release=HOSTILE, machine=HOSTILE, path=HOSTILE, memory_model=HOSTILE, incomplete=HOSTILE)
    data["zones"] = [{**zone, "name": HOSTILE} for zone in data["zones"]]
    data["links"] = [{**link, "zone": HOSTILE} for link in data["links"]]
    data["classes"] = [HOSTILE for _ in data["classes"]]
    data["migratetypes"] = [HOSTILE for _ in data["migratetypes"]]
    known = {"id": HOSTILE, "harmful": True, "why": HOSTILE}
    detail = {"consequences": [{"function": HOSTILE, "outcome": HOSTILE, "why": HOSTILE}]}
    findings = [{**f, "rule": HOSTILE, "message": HOSTILE, "known": known, "detail": detail} for f in data["findings"]]
    out = io.StringIO()
    write_page(data, out, HOSTILE, findings)
    parsed = check_harmless(out.getvalue())
    assert out.getvalue().isascii() or "\u202e" not in out.getvalue()
    assert parsed.text.count("<img src=x onerror=alert(2)>") > 10
    assert r"\x1b[2J" in parsed.text


def busy(pageblocks: int, classes: int = 12) -> dict[str, Any]:
    """Make the map of a busy machine: no pageblock is like the one beside it."""
    cells = []
    for n in range(pageblocks):
        kinds = [kind for kind in range(classes) if (n >> kind) & 1]
        counts = [value for kind in kinds for value in (kind, 37 + (n * 7 + kind) % 11)]
        node = n * 2 // pageblocks
        cells.append([n * 512, (n + 1) * 512, node, node, counts, [n % 3, 512], 3 * (n % 9973 == 7)])
    half = pageblocks * 256
    zones = [
        {"node": node, "index": 2, "name": "Normal", "start_pfn": node * half, "end_pfn": (node + 1) * half}
        for node in (0, 1)
    ]
    names = ["file", "anon", "slab", "page table", "compound", "reserved"]
    names += ["free 0", "free 3", "free 9", "unknown", "hugetlb", "cma"]
    target = {"release": "6.12", "machine": "x86_64", "memory_model": "sparsemem_vmemmap", "page_size": 4096}
    return {
        "target": {**target, "pageblock_order": 9},
        "zones": zones,
        "summary": {"by_severity": {"error": 0, "warning": 0, "note": 0}, "pages_examined": pageblocks * 512},
        "classes": names[:classes],
        "links": [{"node": node, "zone_id": 2, "zone": "Normal"} for node in (0, 1)],
        "spans": [[0], [1]],
        "migratetypes": ["UNMOVABLE", "MOVABLE", "RECLAIMABLE"],
        "memory": [{"start_pfn": 0, "end_pfn": pageblocks * 512, "state": "online"}],
        "cells": cells,
        "findings": [],
    }


def test_page_of_a_busy_terabyte_is_below_3_mb() -> None:
    data = busy(1 << 19)
    out = io.StringIO()
    write_page(data, out, "mminspect map --format html")
    assert len(out.getvalue()) < 3_000_000
    drawn = Parsed(out.getvalue()).data
    assert len(drawn["cells"]) <= MAX_CELLS
    assert drawn["cells"][0][0] == 0 and drawn["cells"][-1][1] == 1 << 28
    assert all(before[1] == after[0] for before, after in zip(drawn["cells"], drawn["cells"][1:]))
    # Every finding is still there.
    wrong = [cell for cell in data["cells"] if cell[6]]
    marked = [(start, end) for start, end, *_, level, _ in drawn["cells"] if level]
    assert all(any(start <= cell[0] < end for start, end in marked) for cell in wrong)


def test_cells_are_joined_only_where_that_says_nothing_wrong() -> None:
    cells = [[0, 8, 0, 0, [0, 8], [1, 8], 0], [8, 16, 0, 0, [1, 8], [1, 8], 0], [16, 24, 1, 0, [0, 8], [1, 8], 0]]
    assert coarsened(cells, 3) == cells
    assert coarsened(cells, 2) == [[0, 16, 0, 0, [0, 8, 1, 8], [1, 16], 0], cells[2]]
    # No more can be joined: another zone, a hole.
    assert coarsened(cells, 1) == coarsened(cells, 2)
    apart = [cells[0], [24, 32, 0, 0, [0, 8], [1, 8], 0]]
    assert coarsened(apart, 1) == apart


@pytest.mark.parametrize(("number", "name"), [(16, "#000000"), (231, "#ffffff"), (196, "#ff0000"), (232, "#080808")])
def test_colors_are_those_of_terminals(number: int, name: str) -> None:
    assert color(number) == name


def test_triage_shows_where_the_named_page_lies(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("triage", unpacked("amd64-5.10-bug"), "--format", "html")
    assert done.status == 1
    parsed = check_harmless(done.out)
    assert "The memory map explains this crash." in parsed.text
    assert "pfn 0x2a00" in parsed.text and "error zone-span 0x2a00-0x2a01" in parsed.text
    rects = [a for tag, a in parsed.elements if tag == "rect" and a.get("fill") == "#c2410c"]
    # 0x2a00 of [1, 0x7fe0).
    assert any(abs(float((a["x"] or "").rstrip("%")) - 100 * 0x29FF / 0x7FDF) < 0.3 for a in rects)


def test_triage_of_a_log_and_of_several_files(cli: Cli, unpacked: Unpacked, tmp_path: Any) -> None:
    log = tmp_path / "dmesg"
    log.write_text(
        "[    0.000000] Linux version 6.1.0 (a@b) #1 SMP\n[    0.000000] Zone ranges:\n"
        "[    0.000000]   DMA      [mem 0x0000000000001000-0x0000000000ffffff]\n"
        "[    0.000000]   DMA32    [mem 0x0000000001000000-0x000000001fffffff]\n"
        "[    9.000000] BUG: Bad page state in process a<b>  pfn:01234\n"
    )
    done = cli("triage", log, "--format", "html")
    parsed = check_harmless(done.out)
    assert "<b>" not in done.out and "pfn 0x1234" in parsed.text and "DMA32" in parsed.text
    several = cli("triage", log, unpacked(AMD64_400M), "--format", "html")
    assert check_harmless(several.out).text.count("dmesg") >= 2


def test_diff_shows_both_maps_to_one_scale(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("diff", unpacked(AMD64_400M), unpacked(AMD64_NUMA), "--format", "html")
    parsed = check_harmless(done.out)
    pictures = [a for tag, a in parsed.elements if tag == "svg" and "aria-label" in a]
    assert [a["aria-label"] for a in pictures] == ["The memory map before", "The memory map after"]
    assert parsed.text.count("0x40000") >= 2
    assert "What differs" in parsed.text and "node 1" in parsed.text


def test_diff_marks_zones_that_differ_and_gives_a_zone_one_color(cli: Cli, unpacked: Unpacked) -> None:
    done = cli("diff", unpacked(AMD64_400M), unpacked(AMD64_NUMA), "--format", "html")
    before, after = (part.split("</h2>")[1] for part in done.out.split("<h2>")[1:3])
    fills = [
        re.findall(r'fill="(#[0-9a-f]{6})"[^>]*><title>node 0 DMA32[,<]', side.replace("\n", ""))
        for side in (before, after)
    ]
    assert len(fills[0]) == 1 and fills[0] == fills[1]
    assert "<title>node 0 DMA32, changed" in before and "<title>node 0 DMA32, changed" in after
    assert "<title>node 1 DMA32, new" in after and "node 1" not in before


def test_page_says_why_there_may_be_more_to_find(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core, baseline, page = unpacked(I386_HOLE), tmp_path / "baseline.json", tmp_path / "page.html"

    def remarks(*words: object) -> list[str]:
        cli("scan", "-c", core, "--format", "html", "-o", page, *words)
        return re.findall(r'<p class="bad">(.*?)</p>', page.read_text())

    assert remarks() == []
    cli("scan", "-c", core, "--format", "json", "-o", baseline)
    assert remarks("--baseline", baseline) == ["7 findings left out: in the baseline"]
    assert "<h1>No findings</h1>" in page.read_text()
    assert remarks("--select", "zone-id") == ["Only these rules were applied: zone-id"]
    # What was saved of a dump that isn't whole says so, too.
    data = cli("map", "-c", core, "--format", "json").json()
    data["target"]["incomplete"], data["summary"]["partial"] = "truncated: the half of it", True
    saved = tmp_path / "map.json"
    saved.write_text(json.dumps(data))
    text = cli("map", "--from", saved).out
    assert "not whole: truncated: the half of it\nstopped early: not all of memory was examined\n" in text
    cli("map", "--from", saved, "--format", "html", "-o", page)
    found = re.findall(r'<p class="bad">(.*?)</p>', page.read_text())
    assert found == ["Not whole: truncated: the half of it", "Stopped early: not all of memory was examined"]


@pytest.mark.parametrize(
    ("pages", "heading", "number"),
    [("0x1000-0x1100", "No findings", 0), ("0xa170-0xa230", "5 errors, 1 known to do harm on stock kernels", 5)],
)
def test_page_of_a_range_counts_what_is_there(
    pages: str, heading: str, number: int, cli: Cli, unpacked: Unpacked, tmp_path: Path
) -> None:
    core, saved = unpacked(I386_HOLE), tmp_path / "map.json"
    cli("map", "-c", core, "--format", "json", "-o", saved)
    for source in (("-c", core), ("--from", saved)):
        page = cli("map", *source, pages, "--format", "html").out
        assert f"<h1>{heading}" in page and f"<h2>Findings ({number})</h2>" in page
        assert "more finding" not in page
        assert f"Here are pfns {pages[:3]}" in page
