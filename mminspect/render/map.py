# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory map as a picture on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from mminspect.findings import ERROR, NOTE, SEVERITIES, WARNING
from mminspect.render.marks import ABSENT, Mark, Marks, marks_of, severity_mark
from mminspect.render.report import remarks
from mminspect.render.style import Style

WIDTH = 80
# Lines of strips and holes: with legend, totals and a few findings they fill one screen.
MAX_LINES = 16
MIN_CELLS, MAX_CELLS = 8, 256
# Nobody reads more findings below a picture.
MAX_FINDINGS = 10
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Strip(NamedTuple):
    """
    Memory that is drawn without a break, or a hole.

    :ivar start: First pfn. For memory, aligned to a cell.
    :ivar end: Pfn behind the last.
    :ivar state: ``None`` for memory, else what there is instead.
    """

    start: int
    end: int
    state: str | None


class Scale(NamedTuple):
    """
    How a picture is scaled.

    :ivar order: A cell has 1 << order pages.
    :ivar cells: Cells of a row.
    :ivar rows: Rows of a line.
    """

    order: int
    cells: int
    rows: int

    @property
    def row_pages(self) -> int:
        """Pages of a row."""
        return self.cells << self.order


def size(number: int) -> str:
    """Format a number of bytes."""
    unit = 0
    while number >= 1024 << 10 * unit and unit + 1 < len(_UNITS):
        unit += 1
    text = f"{number / (1 << 10 * unit):.1f}".rstrip("0").rstrip(".")
    return f"{text} {_UNITS[unit]}"


def strips(data: dict[str, Any], scale: Scale) -> list[Strip]:
    """Cut what is to be seen into strips of memory, and holes that are too large to be drawn as empty cells."""
    low, high, pages = data["start_pfn"], data["end_pfn"], 1 << scale.order
    result: list[Strip] = []
    for item in data["memory"]:
        start, end = max(item["start_pfn"], low), min(item["end_pfn"], high)
        if start >= end:
            continue
        state = item["state"] if item["state"] in ("absent", "offline") else None
        last = result[-1] if result else None
        if state is not None:
            # A hole of less than a row is drawn, if memory follows.
            result.append(Strip(start, end, state))
            continue
        start -= start % pages
        hole_pages = 0
        at = len(result)
        while at and result[at - 1].state is not None:
            at -= 1
            hole_pages += result[at].end - result[at].start
        if at and hole_pages < scale.row_pages and result[at - 1].end >= result[at - 1].start:
            result[at - 1 :] = [result[at - 1]._replace(end=end)]
        elif last is not None and last.state is None:
            result[-1] = last._replace(end=end)
        else:
            if last is not None and last.end > start:
                result[-1] = last._replace(end=start)
                if start <= last.start:
                    result.pop()
            result.append(Strip(start, end, None))
    return result


def _lines(parts: Sequence[Strip], scale: Scale) -> int:
    """Count the lines of a picture."""
    per_line = scale.row_pages * scale.rows
    return sum(1 if part.state is not None else -(-(part.end - part.start) // per_line) for part in parts)


def choose_scale(data: dict[str, Any], width: int, rows: int) -> tuple[Scale, list[Strip]]:
    """Choose the smallest cells with which a picture fits on a screen."""
    cells = max(MIN_CELLS, min(MAX_CELLS, (width - _label_width(data)) // 8 * 8))
    order = data["cell_pages"].bit_length() - 1
    while True:
        scale = Scale(order, cells, rows)
        parts = strips(data, scale)
        if _lines(parts, scale) <= MAX_LINES or order >= 52:
            return scale, parts
        order += 1


def _label_width(data: dict[str, Any]) -> int:
    last = max(data["end_pfn"], 1)
    return len(f"{last:#x}") + len(f"{last * data['target'].get('page_size', 4096):#x}") + 2


class Grid:
    """
    The cells of a picture, by what is in them.

    :ivar counts: By index of the cell (its first pfn >> order): pages by mark.
    :ivar severity: By index: 1 + the index of the worst severity.
    """

    def __init__(self, data: dict[str, Any], marks: Marks, order: int) -> None:
        self.counts: dict[int, dict[Mark, int]] = {}
        self.severity: dict[int, int] = {}
        # Large cells of one mark are kept as they are: (first index, last, mark).
        low, high = data["start_pfn"], data["end_pfn"]
        for cell in data["cells"]:
            start, end = max(cell[0], low), min(cell[1], high)
            if start < end:
                self._add(start, end, marks.of(cell), cell[6], order)
        for finding in data["findings"]:
            self._paint(data, finding, order)

    def _add(self, start: int, end: int, parts: Sequence[tuple[Mark, int]], level: int, order: int) -> None:
        first, last = start >> order, (end - 1) >> order
        for index in range(first, last + 1):
            pages = min(end, (index + 1) << order) - max(start, index << order)
            here = self.counts.setdefault(index, {})
            for mark, count in parts:
                # A cell that is larger than what is drawn is of one mark.
                here[mark] = here.get(mark, 0) + (pages if len(parts) == 1 else count)
            if level > self.severity.get(index, 0):
                self.severity[index] = level

    def _paint(self, data: dict[str, Any], finding: dict[str, Any], order: int) -> None:
        """Mark the cells of a finding, which may be where there are no pages to count."""
        level = 1 + SEVERITIES.index(finding["severity"])
        for start, end in finding.get("pfns", ()):
            start, end = max(start, data["start_pfn"]), min(end, data["end_pfn"])
            # What is large was counted with the pages.
            for index in {start >> order, (end - 1) >> order} if start < end else ():
                self.severity[index] = max(level, self.severity.get(index, 0))

    def mark(self, index: int) -> Mark:
        """Get what stands for a cell: the worst finding, else what most of its pages are."""
        if self.severity.get(index):
            return severity_mark(SEVERITIES[self.severity[index] - 1])
        counts = self.counts.get(index)
        return max(counts.items(), key=lambda item: (item[1], item[0].letter))[0] if counts else ABSENT


def write_map(data: dict[str, Any], by: str, out: IO[str], style: Style) -> None:
    """
    Draw a memory map.

    :param data: As docs/json.md describes it.
    :param by: What is drawn: ``state``, ``zone`` or ``migratetype``.
    """
    width = style.width or WIDTH
    color = style.color
    marks = marks_of(data, by)
    scale, parts = choose_scale(data, width, 1)
    if color:
        # Two rows a line hide letters, and where exactly a finding is; they are worth it where cells become smaller.
        finer = choose_scale(data, width, 2)
        scale, parts = finer if finer[0].order < scale.order else (scale, parts)
    grid = Grid(data, marks, scale.order)
    page = data["target"].get("page_size", 4096)
    cell = f"a page ({size(page)})" if not scale.order else f"{1 << scale.order:,} pages ({size(page << scale.order)})"
    head = (
        f"{data['target'].get('release')} {data['target'].get('machine')}, by {by}: pfns {data['start_pfn']:#x}-"
        f"{data['end_pfn']:#x}, a cell is {cell}"
    )
    out.write(_wrapped(head, width) + "\n")
    if "incomplete" in data["target"]:
        out.write(_wrapped(f"not whole: {data['target']['incomplete']}", width) + "\n")
    for remark in remarks(data["summary"]):
        out.write(_wrapped(remark, width) + "\n")
    out.write("\n")
    seen: set[Mark] = set()
    for part in parts:
        if part.state is not None:
            out.write(_hole(part, page, width) + "\n")
            continue
        for line in _strip(part, grid, scale, seen, color):
            label = f"{line[0]:#x} {line[0] * page:#x}".rjust(_label_width(data) - 1)
            out.write(f"{label} {line[1]}".rstrip() + "\n")
    out.write("\n")
    _write_legend(marks, seen, out, width, color)
    _write_totals(marks, data, page, out, width)
    _write_findings(data, out, width, color)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


def _hole(part: Strip, page: int, width: int) -> str:
    words = {"absent": "no memory", "offline": "memory that is offline"}
    pages = part.end - part.start
    text = f"-- {part.start:#x}-{part.end:#x}: {size(pages * page)}, {words[part.state or 'absent']} "
    return _wrapped(text, width) if len(text) > width else text + "-" * (min(width, WIDTH) - len(text))


def _strip(part: Strip, grid: Grid, scale: Scale, seen: set[Mark], color: bool) -> Iterator[tuple[int, str]]:
    """Draw memory; give (first pfn, cells) of each line."""
    first, last = part.start >> scale.order, (part.end - 1) >> scale.order
    step = scale.cells * scale.rows
    for start in range(first, last + 1, step):
        row = [grid.mark(i) if i <= last else None for i in range(start, start + step)]
        seen.update(mark for mark in row if mark is not None)
        pfn = start << scale.order
        if not color:
            yield pfn, "".join(mark.letter for mark in row if mark is not None)
            continue
        if scale.rows == 1:
            yield pfn, "".join(mark.paint() for mark in row if mark is not None) + "\x1b[0m"
            continue
        upper, lower = row[: scale.cells], row[scale.cells :]
        yield pfn, "".join(_pair(one, two) for one, two in zip(upper, lower)) + "\x1b[0m"


def _pair(upper: Mark | None, lower: Mark | None) -> str:
    """Draw two cells, one above the other. Their letter stands there unless they differ; a finding's always does."""
    if upper is None:
        return "\x1b[0m "
    for mark in (upper, lower):
        if mark is not None and mark.level:
            worst = max((m for m in (upper, lower) if m is not None), key=lambda m: m.level)
            return worst.paint()
    if lower is upper:
        return upper.paint()
    below = "49" if lower is None or lower.background is None else f"48;5;{lower.background}"
    above = upper.background
    if above is None:
        return f"\x1b[0;{below.replace('48', '38', 1)}m▄" if below != "49" else "\x1b[0m "
    return f"\x1b[0;38;5;{above};{below}m▀"


def _write_legend(marks: Marks, seen: set[Mark], out: IO[str], width: int, color: bool) -> None:
    """Explain the letters that are there."""
    items = [mark for mark in marks.order if mark in seen]
    lines, used = [""], 0
    for mark in items:
        plain = f"{mark.letter} {mark.name}"
        if used and used + len(plain) + 3 > width:
            lines.append("")
            used = 0
        shown = f"{mark.paint()}\x1b[0m {mark.name}" if color else plain
        lines[-1] += ("   " if used else "") + shown
        used += len(plain) + (3 if used else 0)
    if items:
        out.write("\n".join(lines) + "\n")
        out.write(_wrapped("A cell shows its worst finding, else what most of its pages are.", width) + "\n")


def _write_totals(marks: Marks, data: dict[str, Any], page: int, out: IO[str], width: int) -> None:
    """Count the pages of each kind."""
    totals: dict[str, int] = {}
    for cell in data["cells"]:
        if cell[0] < data["end_pfn"] and data["start_pfn"] < cell[1]:
            inside = min(cell[1], data["end_pfn"]) - max(cell[0], data["start_pfn"])
            parts = marks.of(cell)
            for mark, pages in parts:
                totals[mark.name] = totals.get(mark.name, 0) + (inside if len(parts) == 1 else pages)
    named = sorted(totals.items(), key=lambda item: -item[1])
    text = "; ".join(f"{name} {pages:,} ({size(pages * page)})" for name, pages in named)
    if text:
        out.write(_wrapped(f"Pages: {text}", width) + "\n")


def _write_findings(data: dict[str, Any], out: IO[str], width: int, color: bool) -> None:
    """List the first findings."""
    found = sorted(data["findings"], key=lambda f: (-SEVERITIES.index(f["severity"]), f["start_pfn"]))
    if not found:
        out.write("\nNo findings.\n")
        return
    out.write("\n")
    digits = len(str(min(len(found), MAX_FINDINGS)))
    for number, finding in enumerate(found[:MAX_FINDINGS], 1):
        mark = severity_mark(finding["severity"])
        pfns = f"{finding['start_pfn']:#x}-{finding['end_pfn']:#x}"
        text = f"{number:>{digits}} {mark.letter} {finding['rule']} {pfns}: {finding['message']}"
        lines = textwrap.wrap(text, width, subsequent_indent=" " * (digits + 3), break_on_hyphens=False)
        if color:
            at = digits + 1
            lines[0] = f"{lines[0][:at]}{mark.paint()}\x1b[0m{lines[0][at + 1 :]}"
        out.write("\n".join(lines) + "\n")
    more = len(found) - MAX_FINDINGS + data.get("findings_omitted", 0)
    if more > 0:
        counts = {s: sum(f["severity"] == s for f in found) for s in (ERROR, WARNING, NOTE)}
        kinds = ", ".join(f"{number} {name}s" for name, number in counts.items() if number)
        out.write(_wrapped(f"{more:,} more; 'mminspect scan' lists all ({kinds} here)", width) + "\n")
