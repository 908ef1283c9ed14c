# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory map as a picture: plain data, made in one walk."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mminspect.errors import MminspectError
from mminspect.findings import SEVERITIES, Finding, Report
from mminspect.memmap.picture import DEVICE, NO_LINK, SEVERAL, Cells, concatenate, name_of
from mminspect.memorymap.blocks import migratetype_runs
from mminspect.memorymap.device import MAX_STRETCHES
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.ranges import Range, merge, subtract
from mminspect.walk.picture import Picture

SCHEMA = "mminspect.map/1"
COLUMNS = ("start_pfn", "end_pfn", "link", "span", "classes", "migratetypes", "severity")
# States of memory: of a map, and of one that was made of a report, which tells only what zones span.
ONLINE, DEVICE_MEMORY, SPANNED = "online", "device", "spanned"
# Cells of a whole machine, and of a range that is looked at closely, at most; the cells are made larger instead.
MAX_CELLS = 1 << 19
MAX_RANGE_CELLS = 1 << 16
# Findings that are listed. The cells know all of them.
MAX_FINDINGS = 1000
# Ranges of pages of each that are listed.
MAX_PFNS = 1000
# Edges of findings from which on cells are cut where cells begin anyway.
MAX_EDGES = 1 << 16
# No pfn is so large.
BEHIND = 1 << 62
_NUMBER = r"0[xX][0-9a-fA-F]+|[0-9]+"

Pfns = npt.NDArray[np.int64]


def parse_range(text: str) -> Range:
    """
    Read a range of pfns, ``START-END``, half-open.

    :raises MminspectError: if it is none.
    """
    match = re.fullmatch(rf"({_NUMBER})-({_NUMBER})", text.strip())
    if match is None:
        raise MminspectError(f"{text!r}: not a range; give two pfns as START-END, hexadecimal with 0x")
    start, end = (int(number, 16 if number[:2].lower() == "0x" else 10) for number in match.groups())
    if end <= start:
        raise MminspectError(f"{text}: a range is START-END, END after START")
    if end >= 1 << 52:
        raise MminspectError(f"{text}: no machine has such a pfn")
    return start, end


def clip_range(memory: Iterable[Range], span: Range) -> Range:
    """
    Check that a range has memory.

    :param memory: Ranges of pfns that are there.
    :return: The range, as far as there is memory.
    :raises MminspectError: if there is none in it.
    """
    inside = [(max(start, span[0]), min(end, span[1])) for start, end in memory if start < span[1] and span[0] < end]
    if not inside:
        raise MminspectError(f"{span[0]:#x}-{span[1]:#x}: no memory is there; 'mminspect zones' shows what there is")
    return min(start for start, _ in inside), max(end for _, end in inside)


def clip_map(data: dict[str, Any], span: Range) -> dict[str, Any]:
    """
    Return what a range has of a map that was saved.

    :param data: As docs/json.md describes it.
    :param span: Widened to whole cells, as nothing tells what is where in one.
    :raises MminspectError: if the map has no memory there.
    """
    low, high = data["start_pfn"], data["end_pfn"]
    there = [
        (max(item["start_pfn"], low), min(item["end_pfn"], high))
        for item in data["memory"]
        if item["state"] in (ONLINE, DEVICE_MEMORY, SPANNED) and item["start_pfn"] < high and low < item["end_pfn"]
    ]
    start, end = clip_range(there, span)
    cell = data["cell_pages"]
    span = start, end = max(start // cell * cell, low), min(-(-end // cell) * cell, high)
    return {
        **data,
        "start_pfn": start,
        "end_pfn": end,
        "is_range": True,
        "cells": [_clipped(row, span) for row in data["cells"] if row[0] < end and start < row[1]],
        "findings": [f for f in data["findings"] if _touches(f["start_pfn"], f["end_pfn"], span)],
    }


def _clipped(row: list[Any], span: Range) -> list[Any]:
    """Clip a cell. One that is larger than the map's cells has one class and one migratetype."""
    start, end = max(row[0], span[0]), min(row[1], span[1])
    if (start, end) == (row[0], row[1]):
        return row
    counts = [[pairs[0], end - start] if len(pairs) == 2 else pairs for pairs in row[4:6]]
    return [start, end, *row[2:4], *counts, *row[6:]]


def _touches(start: int, end: int, span: Range) -> bool:
    """Return whether a finding is in a range; one of no pages is where it begins."""
    return start < span[1] and span[0] < max(end, start + 1)


def cell_order(memory: MemoryMap, span: Range | None, finest: int | None = None) -> int:
    """
    Choose how large cells are.

    :param finest: The smallest order that is of use; a pageblock by default, or a page where a range is given.
    :return: The order of a cell.
    """
    online = memory.online_ranges()
    if span is None:
        pages = sum(end - start for start, end in online)
    else:
        pages = sum(max(0, min(end, span[1]) - max(start, span[0])) for start, end in online)
    limit = MAX_CELLS if span is None else MAX_RANGE_CELLS
    order = (memory.layout.pageblock_order if span is None else 0) if finest is None else finest
    while pages >> order > limit:
        order += 1
    return order


def device_ranges(memory: MemoryMap) -> list[Range]:
    """List where devices have memory with struct pages, none of which is online."""
    return subtract(merge((pages.start, pages.end) for pages in memory.device), list(memory.online_ranges()))


def _device_cells(memory: MemoryMap, span: Range | None) -> Cells:
    """Make cells of device memory. What it links to is known as far as what is wrong in it was kept."""
    zones = {zone.node: zone for zone in memory.zones if zone.name == "Device"}
    low, high = span or (0, BEHIND)
    parts: list[tuple[int, int, int]] = []
    for pages in memory.device:
        zone = zones.get(pages.node) if pages.node is not None else None
        right = NO_LINK if zone is None else memory.layout.link(zone.node, zone.index)
        at = pages.start
        for start, end, link in pages.elsewhere:
            parts += [(at, start, right), (start, end, link)]
            at = end
        parts.append((at, pages.end, right if len(pages.elsewhere) < MAX_STRETCHES else NO_LINK))
    there = device_ranges(memory)
    clipped = [
        (max(start, first, low), min(end, last, high), link) for start, end, link in parts for first, last in there
    ]
    rows = sorted({row for row in clipped if row[0] < row[1]})
    columns = np.array(rows, np.int64).reshape(-1, 3)
    count = len(rows)
    code = np.full(count, DEVICE, np.uint8)
    starts, ends = columns[:, 0], columns[:, 1]
    return Cells(starts, ends, columns[:, 2], np.arange(count), code, ends - starts)


def _merged(one: Cells, other: Cells) -> Cells:
    """Put cells that don't overlap into order."""
    both = concatenate([one, other])
    order = np.argsort(both.start, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    row = place[both.row]
    by_row = np.argsort(row, kind="stable")
    return Cells(
        both.start[order], both.end[order], both.link[order], row[by_row], both.code[by_row], both.pages[by_row]
    )


def memory_states(memory: MemoryMap) -> list[dict[str, Any]]:
    """List where memory is online, offline, a device's or absent, from the first pfn that is spanned or there on."""
    online = list(memory.online_ranges())
    shift = memory.layout.pfn_section_shift
    offline: list[Range] = []
    if shift is not None:
        there = merge(
            (entry.nr << shift, (entry.nr + 1) << shift)
            for entry in memory.mem_sections
            if any("PRESENT" in flag for flag in entry.flags)
            and not any(flag.endswith("IS_ONLINE") for flag in entry.flags)
        )
        offline = subtract(there, online)
    device = device_ranges(memory)
    offline = subtract(offline, device)
    known = [(*r, ONLINE) for r in online] + [(*r, "offline") for r in offline] + [(*r, DEVICE_MEMORY) for r in device]
    spans = [(zone.start_pfn, zone.end_pfn) for zone in memory.populated_zones]
    edges = [*online, *offline, *device, *spans]
    whole = [(min(start for start, _ in edges), max(end for _, end in edges))] if edges else []
    absent = subtract(whole, merge([*online, *offline, *device]))
    known += [(*r, "absent") for r in absent]
    return [{"start_pfn": start, "end_pfn": end, "state": state} for start, end, state in sorted(known)]


def painted(finding: Finding) -> tuple[Range, ...]:
    """Get the pages that a finding says are wrong; none if it is about a whole zone."""
    if finding.of_zone or finding.end_pfn <= finding.start_pfn:
        return ()
    return finding.wrong or finding.named or ((finding.start_pfn, finding.end_pfn),)


class Worst(NamedTuple):
    """The pages of findings, by severity: merged ranges as arrays of starts and ends."""

    levels: list[tuple[Pfns, Pfns]]

    @staticmethod
    def of(findings: Iterable[tuple[str, Iterable[Range]]]) -> Worst:
        """
        Gather the pages of findings.

        :param findings: (severity, ranges of pages) of each.
        """
        ranges: dict[str, list[Range]] = {severity: [] for severity in SEVERITIES}
        sizes = dict.fromkeys(SEVERITIES, 0)
        for severity, pages in findings:
            pending = ranges[severity]
            pending.extend(pages)
            # There may be millions, side by side.
            if len(pending) > 2 * max(MAX_EDGES, sizes[severity]):
                ranges[severity] = merge(pending)
                sizes[severity] = len(ranges[severity])
        # A damaged word can be a finding far behind all memory.
        merged = [
            np.array([(min(low, BEHIND), min(high, BEHIND)) for low, high in merge(ranges[s])], np.int64).reshape(-1, 2)
            for s in SEVERITIES
        ]
        return Worst([(pairs[:, 0], pairs[:, 1]) for pairs in merged])

    def edges(self) -> Pfns:
        """Get where the pages of findings begin and end."""
        return np.concatenate([side for pair in self.levels for side in pair])

    def at(self, start: Pfns, end: Pfns) -> npt.NDArray[np.uint8]:
        """Get 1 + the index of the worst severity in each of some ranges, 0 if nothing is wrong there."""
        result = np.zeros(len(start), np.uint8)
        for level, (starts, ends) in enumerate(self.levels):
            if len(starts):
                index = np.searchsorted(ends, start, "right")
                hit = index < len(ends)
                hit[hit] &= starts[index[hit]] < end[hit]
                result[hit] = level + 1
        return result


def _cut(cells: Cells, edges: Pfns) -> Cells:
    """Cut cells of one class at edges; nothing tells what is where in the others."""
    single = np.bincount(cells.row, minlength=len(cells.start)) == 1
    index = np.searchsorted(cells.start, edges, "right") - 1
    fits = index >= 0
    fits[fits] &= (
        single[index[fits]] & (edges[fits] > cells.start[index[fits]]) & (edges[fits] < cells.end[index[fits]])
    )
    if not fits.any():
        return cells
    edges, index = edges[fits], index[fits]
    start = np.concatenate((cells.start, edges))
    order = np.argsort(start, kind="stable")
    source = np.concatenate((np.arange(len(cells.start)), index))[order]
    start = start[order]
    end = cells.end[source]
    end[:-1] = np.minimum(end[:-1], start[1:])
    # The counts of a cell are in one place; those of the parts follow from their sizes.
    first = np.searchsorted(cells.row, np.arange(len(cells.start) + 1))
    lengths = (first[1:] - first[:-1])[source]
    row = np.repeat(np.arange(len(source)), lengths)
    within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = first[:-1][source][row] + within
    pages = np.where(single[source][row], (end - start)[row], cells.pages[at])
    return Cells(start, end, cells.link[source], row, cells.code[at], pages)


class _Numbers(dict[Any, int]):
    """Numbers things as they come."""

    def __missing__(self, key: Any) -> int:
        self[key] = len(self)
        return self[key]


def _pairs(kinds: Sequence[int], pages: Sequence[int]) -> list[int]:
    counts: dict[int, int] = {}
    for kind, count in zip(kinds, pages):
        counts[kind] = counts.get(kind, 0) + count
    return [number for pair in counts.items() for number in pair]


def make_map(picture: Picture, report: Report) -> dict[str, Any]:
    """
    Make a picture of what was seen in a walk.

    :return: As docs/json.md describes it.
    """
    memory, order = picture.memory, picture.rules.order
    worst = Worst.of((finding.severity, painted(finding)) for finding in report.findings)
    blocks = migratetype_runs(memory)
    grid = 1 << order
    block_edges = np.concatenate((blocks.start, blocks.end))
    if order > memory.layout.pageblock_order:
        block_edges = np.concatenate((block_edges // grid * grid, -(-block_edges // grid) * grid))
    edges = worst.edges()
    if len(edges) > MAX_EDGES:
        edges = np.concatenate((edges // grid * grid, -(-edges // grid) * grid))
    device = _device_cells(memory, picture.rules.span)
    seen = _merged(picture.cells, device) if len(device.start) else picture.cells
    cells = _cut(seen, np.unique(np.concatenate((block_edges, edges))))
    severity = worst.at(cells.start, cells.end)
    classes, links, spans = _Numbers(), _Numbers(), _Numbers()
    rows = list(_rows(memory, cells, severity, (classes, links, spans)))
    span = picture.rules.span
    states = memory_states(memory)
    if span is None:
        span = (states[0]["start_pfn"], states[-1]["end_pfn"]) if states else (0, 0)
    shown = _Shown(report.findings, span)
    names = list(memory.layout.migratetypes)
    names += [str(kind) for kind in range(len(names), 8)]
    return {
        "schema": SCHEMA,
        "target": report.target,
        "zones": report.zones,
        "summary": report.summary,
        "start_pfn": span[0],
        "end_pfn": span[1],
        "is_range": picture.rules.span is not None,
        "cell_pages": grid,
        "classes": [name_of(code) for code in classes],
        "links": [_describe_link(memory, link) for link in links],
        "spans": [list(zones) for zones in spans],
        "migratetypes": names,
        "severities": [None, *SEVERITIES],
        "memory": states,
        "columns": list(COLUMNS),
        "cells": rows,
        "findings": [_short(finding) for finding in shown.worst],
        "findings_omitted": shown.number - len(shown.worst),
    }


class _Shown:
    """
    The findings that touch a range, the worst first.

    :ivar worst: The first MAX_FINDINGS of them.
    :ivar number: How many there are.
    """

    def __init__(self, findings: Iterable[Finding], span: Range) -> None:
        self.number = 0
        self.worst = heapq.nsmallest(
            MAX_FINDINGS, self._inside(findings, span), key=lambda finding: -SEVERITIES.index(finding.severity)
        )

    def _inside(self, findings: Iterable[Finding], span: Range) -> Iterator[Finding]:
        for finding in findings:
            if _touches(finding.start_pfn, finding.end_pfn, span):
                self.number += 1
                yield finding


def _short(finding: Finding) -> dict[str, Any]:
    """Get a finding without its detail, and the pages that it paints."""
    data = finding.as_dict()
    del data["detail"]
    data["pfns"] = [list(r) for r in painted(finding)[:MAX_PFNS]]
    return data


def _describe_link(memory: MemoryMap, link: int) -> dict[str, Any]:
    if link == SEVERAL:
        return {"node": None, "zone_id": None, "zone": None}
    node, index = memory.layout.node_zone(link)
    zone = memory.zone(node, index)
    return {"node": node, "zone_id": index, "zone": None if zone is None else zone.name}


def _rows(
    memory: MemoryMap, cells: Cells, severity: npt.NDArray[np.uint8], numbers: tuple[_Numbers, _Numbers, _Numbers]
) -> Iterator[list[Any]]:
    """Make the rows of cells, and number what is in them."""
    classes, links, spans = numbers
    zones = memory.populated_zones
    # What spans a cell doesn't change within it.
    edges = np.unique([pfn for zone in zones for pfn in (zone.start_pfn, zone.end_pfn)])
    between = [()] + [tuple(n for n, zone in enumerate(zones) if zone.spans(int(pfn))) for pfn in edges]
    part = np.searchsorted(edges, cells.start, "right").tolist()
    blocks = migratetype_runs(memory)
    first = np.searchsorted(blocks.end, cells.start, "right").tolist()
    last = np.searchsorted(blocks.start, cells.end, "left").tolist()
    kinds, lows, highs = blocks.kind.tolist(), blocks.start.tolist(), blocks.end.tolist()
    bounds = np.searchsorted(cells.row, np.arange(len(cells.start) + 1)).tolist()
    codes, pages = cells.code.tolist(), cells.pages.tolist()
    columns = zip(cells.start.tolist(), cells.end.tolist(), cells.link.tolist(), severity.tolist())
    for number, (start, end, link, level) in enumerate(columns):
        low, high = bounds[number], bounds[number + 1]
        counts = [value for at in range(low, high) for value in (classes[codes[at]], pages[at])]
        runs = range(first[number], last[number])
        types = _pairs([kinds[n] for n in runs], [min(end, highs[n]) - max(start, lows[n]) for n in runs])
        where = None if link == NO_LINK else links[link]
        yield [start, end, where, spans[between[part[number]]], counts, types, level]
