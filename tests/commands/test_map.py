# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect map``: its data, its picture, and what it refuses."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any, Callable

import jsonschema
import numpy as np
import pytest

from mminspect.commands import map as map_
from mminspect.commands.map import Worst, cell_order, parse_range
from mminspect.errors import MminspectError
from mminspect.memmap.chunk import INITIALIZED, UNINITIALIZED_KINDS, UNREADABLE_REASONS
from mminspect.memmap.picture import BY_STATE, CONTINUED, Cells, name_of
from mminspect.memorymap.ranges import Range
from mminspect.memorymap.sections import Section
from mminspect.render.map import size, write_map
from mminspect.render.style import Style
from mminspect.walk.picture import Picture, Seen
from tests.conftest import Cli, Kernels, Unpacked, complaint
from tests.kit.handmade import SPARSE, memory_map, zone
from tests.kit.support import AMD64_400M, AMD64_DEVDAX, AMD64_NUMA, I386_HOLE, ROOT

SCHEMAS = ROOT / "mminspect" / "schemas"


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw for a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def of(cli: Cli, *arguments: object) -> dict[str, Any]:
    """Run a command that writes JSON, and check its schema."""
    done = cli(*arguments)
    assert done.err == ""
    data: dict[str, Any] = json.loads(done.out)
    name = data["schema"].split(".")[1].replace("/", "-")
    jsonschema.validate(data, json.loads((SCHEMAS / f"{name}.json").read_text()))
    return data


def named(data: dict[str, Any], pfn: int) -> tuple[Any, ...]:
    """Get link, zones that span it, classes and severity of the cell of a pfn."""
    (cell,) = (c for c in data["cells"] if c[0] <= pfn < c[1])
    link = data["links"][cell[2]]
    spans = [data["zones"][n]["name"] for n in data["spans"][cell[3]]]
    return link["zone"], spans, [data["classes"][n] for n in cell[4][::2]], data["severities"][cell[6]]


def test_a_map_has_what_is_known_of_the_hole(cli: Cli, unpacked: Unpacked) -> None:
    data = of(cli, "-c", unpacked(I386_HOLE), "map", "--format", "json")
    # The entries of 0xa17b-0xa217 were never written, so that they link to node 0, zone 0.
    assert named(data, 0xA17B) == ("DMA", ["Normal"], ["zeroed"], "error")
    assert named(data, 0xA216) == ("DMA", ["Normal"], ["zeroed"], "error")
    assert named(data, 0xA17A)[0] == named(data, 0xA217)[0] == "Normal"
    starts = {cell[0] for cell in data["cells"]}
    assert {0xA17B, 0xA217} <= starts
    assert sum(cell[4][1] for cell in data["cells"] if named(data, cell[0])[2] == ["zeroed"]) == 0xA217 - 0xA17B


@pytest.mark.parametrize("name", [I386_HOLE, AMD64_400M, AMD64_NUMA])
def test_the_cells_are_all_online_pages_each_once(name: str, cli: Cli, unpacked: Unpacked, kernels: Kernels) -> None:
    data = of(cli, "-c", unpacked(name), "map", "--format", "json")
    memory = kernels(name).memory
    position = 0
    joined: list[list[int]] = []
    for start, end, _, span, classes, types, _ in data["cells"]:
        assert position <= start < end
        position = end
        assert sum(classes[1::2]) == end - start
        assert sum(types[1::2]) == end - start
        zones = [data["zones"][n] for n in data["spans"][span]]
        assert {(z["node"], z["index"]) for z in zones} == {
            (z.node, z.index) for z in memory.zones_spanning(start, end)
        }
        if len(classes) > 2:
            assert start // data["cell_pages"] == (end - 1) // data["cell_pages"]
        if joined and joined[-1][1] == start:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    assert [tuple(r) for r in joined] == list(memory.online_ranges())
    online = [(m["start_pfn"], m["end_pfn"]) for m in data["memory"] if m["state"] == "online"]
    assert online == list(memory.online_ranges())


@pytest.mark.parametrize("name", [I386_HOLE, AMD64_NUMA])
def test_every_finding_is_in_its_cells_and_nowhere_else(name: str, cli: Cli, unpacked: Unpacked) -> None:
    data = of(cli, "-c", unpacked(name), "map", "0x0-0x10000000", "--format", "json")
    rank = data["severities"]
    for start, end, *_, level in data["cells"]:
        touching = [
            rank.index(f["severity"]) for f in data["findings"] for low, high in f["pfns"] if low < end and start < high
        ]
        assert level == max(touching, default=0)


def test_a_range_has_a_cell_for_each_page_that_differs(cli: Cli, unpacked: Unpacked) -> None:
    data = of(cli, "-c", unpacked(I386_HOLE), "map", "0xa100-0xa300", "--format", "json")
    assert (data["start_pfn"], data["end_pfn"], data["cell_pages"], data["is_range"]) == (0xA100, 0xA300, 1, True)
    assert (data["cells"][0][0], data["cells"][-1][1]) == (0xA100, 0xA300)
    assert all(len(cell[4]) == 2 for cell in data["cells"])


def test_one_page_of_a_machine_is_visible(cli: Cli, unpacked: Unpacked) -> None:
    out = cli("-c", unpacked(AMD64_NUMA), "map").out
    # The last cell has the two pages with zone ID 5.
    assert "rrrE\n" in out
    assert "1 E mixed-zone 0x3fe00-0x40000" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_saved_map_is_drawn_like_the_kernel(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    saved = tmp_path / "map.json"
    cli("-c", unpacked(I386_HOLE), "map", "--format", "json", "-o", saved)
    for by in ("state", "zone", "migratetype"):
        assert cli("map", "--from", saved, "--by", by).out == cli("-c", unpacked(I386_HOLE), "map", "--by", by).out


def test_a_report_is_drawn_with_its_zones(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    cli("-c", unpacked(AMD64_NUMA), "scan", "--format", "json", "-o", saved)
    out = cli("map", "--from", saved).out
    assert "a node 0 DMA   b node 0 DMA32   c node 1 DMA32" in out
    assert complaint(cli("map", "--from", saved, "--by", "state")).endswith("use --by zone")


def test_findings_of_a_report_outside_of_zones_are_drawn(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    cli("scan", unpacked(AMD64_NUMA), "--format", "json", "-o", report)
    drawn = cli("map", "--from", report).out
    # pfn 0 is of no zone, and the last zone ends at 0x3ffe0.
    assert "pfns 0x0-0x40000," in drawn
    for pfns in ("0x0-0x1", "0x3ffe0-0x3ffe2", "0x3ffe2-0x40000"):
        assert f" {pfns}: " in drawn
    rows = [line.split(" ")[-1] for line in drawn.split("\n\n")[1].splitlines()]
    assert rows[0].startswith("N") and rows[-1].endswith("E")


def tiny() -> dict[str, Any]:
    """Make a small map: 64 pages, a hole of 1 MiB pages, and 32 pages more."""
    return {
        "schema": "mminspect.map/1",
        "target": {"release": "6.12", "machine": "x86_64", "page_size": 4096, "pageblock_order": 3},
        "zones": [
            {"node": 0, "index": 0, "name": "DMA", "start_pfn": 0, "end_pfn": 32},
            {"node": 0, "index": 1, "name": "Normal", "start_pfn": 32, "end_pfn": 0x100060},
        ],
        "summary": {},
        "start_pfn": 0,
        "end_pfn": 0x100060,
        "is_range": False,
        "cell_pages": 8,
        "classes": ["free 4", "slab", "free 0", "anon"],
        "links": [{"node": 0, "zone_id": 0, "zone": "DMA"}, {"node": 0, "zone_id": 1, "zone": "Normal"}],
        "spans": [[0], [1]],
        "migratetypes": ["UNMOVABLE", "MOVABLE"],
        "severities": [None, "note", "warning", "error"],
        "memory": [
            {"start_pfn": 0, "end_pfn": 64, "state": "online"},
            {"start_pfn": 64, "end_pfn": 0x100040, "state": "absent"},
            {"start_pfn": 0x100040, "end_pfn": 0x100060, "state": "online"},
        ],
        "columns": ["start_pfn", "end_pfn", "link", "span", "classes", "migratetypes", "severity"],
        "cells": [
            [0, 32, 0, 0, [0, 32], [0, 32], 0],
            [32, 40, 1, 1, [1, 5, 2, 3], [1, 8], 0],
            [40, 48, 1, 1, [1, 3, 2, 5], [1, 8], 0],
            [48, 49, 1, 1, [3, 1], [1, 1], 3],
            [49, 64, 1, 1, [3, 15], [1, 15], 0],
            [0x100040, 0x100060, 1, 1, [0, 32], [1, 32], 0],
        ],
        "findings": [
            {
                "rule": "zone-span",
                "severity": "error",
                "start_pfn": 48,
                "end_pfn": 49,
                "node": 0,
                "zone": "Normal",
                "message": "1 page",
                "pfns": [[48, 49]],
            }
        ],
        "findings_omitted": 0,
    }


def write(path: Path, data: Any) -> Path:
    """Write JSON."""
    path.write_text(json.dumps(data))
    return path


def test_the_letters_of_a_small_map(cli: Cli, tmp_path: Path) -> None:
    saved = write(tmp_path / "map.json", tiny())
    assert cli("map", "--from", saved).out == (
        "6.12 x86_64, by state: pfns 0x0-0x100060, a cell is 8 pages (32 KiB)\n"
        "\n"
        "             0x0 0x0 ....s,Ea\n"
        "-- 0x40-0x100040: 4 GiB, no memory ---------------------------------------------\n"
        "0x100040 0x100040000 ....\n"
        "\n"
        "E error   . free, in blocks of a pageblock or more   , free, in smaller blocks\n"
        "a anonymous (LRU)   s slab\n"
        "A cell shows its worst finding, else what most of its pages are.\n"
        "Pages: free, in blocks of a pageblock or more 64 (256 KiB); anonymous (LRU) 16\n"
        "(64 KiB); slab 8 (32 KiB); free, in smaller blocks 8 (32 KiB)\n"
        "\n"
        "1 E zone-span 0x30-0x31: 1 page\n"
    )
    by_zone = cli("map", "--from", saved, "--by", "zone").out
    assert "             0x0 0x0 aaaabbEb\n" in by_zone
    assert "             0x0 0x0 uuuummEm\n" in cli("map", "--from", saved, "--by", "migratetype").out


def test_colors_are_never_the_only_sign_of_a_finding() -> None:
    data = tiny()
    data["memory"] = [{"start_pfn": 0, "end_pfn": 0x3000, "state": "online"}]
    data["end_pfn"] = 0x3000
    data["cells"][-1] = [64, 0x3000, 1, 1, [0, (0x3000) - 64], [], 0]
    out = io.StringIO()
    write_map(data, "state", out, Style(80, color=True))
    drawn = out.getvalue()
    # Two rows a line: what differs is a half block, what is alike a letter, and the finding its own letter.
    assert "a cell is 8 pages" in drawn
    assert "\u2580" in drawn
    first = re.sub(r"\x1b\[[0-9;]*m", "", drawn.splitlines()[2])
    assert re.sub("[\u2580\u2584]", "_", first).split(" ")[-1] == "...." + "___"[:2] + "E_" + "." * 48


def test_four_tebibytes_fit_one_screen(cli: Cli, tmp_path: Path) -> None:
    data = tiny()
    end = 1 << 30
    data["memory"] = [{"start_pfn": 0, "end_pfn": end, "state": "online"}]
    data["cells"] = [
        [0, 0x12345, 1, 1, [0, 0x12345], [], 0],
        [0x12345, 0x12346, 1, 1, [0, 1], [], 2],
        [0x12346, end, 1, 1, [0, end - 0x12346], [], 0],
    ]
    data["end_pfn"] = end
    data["findings"] = []
    lines = cli("map", "--from", write(tmp_path / "map.json", data)).out.splitlines()
    assert len(lines) <= 24
    assert sum("W" in line.split(" ")[-1] for line in lines[2:18]) == 1


def broken(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Make a map that is wrong."""
    data = tiny()
    change(data)
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (json.dumps(tiny())[:300], "cut short or damaged"),
        ('{"schema": "mminspect.map/2"}', "schema"),
        ('{"a": 1}', "neither a report nor a map"),
        ("\x7fELF", "neither a report nor a map"),
        ("[" * 100000, "neither a report nor a map"),
        ("", "neither a report nor a map"),
        (broken(lambda d: d.pop("cells")), "no 'cells'"),
        (broken(lambda d: d["cells"].append([1, 2])), "can't be a cell"),
        (broken(lambda d: d["cells"].append([64, 72, 9, 0, [0, 8], [], 0])), "can't be a cell"),
        (broken(lambda d: d["cells"].append([64, 72, 0, 0, [9, 8], [], 0])), "can't be a cell"),
        (broken(lambda d: d["findings"][0].update(severity="fatal")), "severity 'fatal'"),
        (broken(lambda d: d["findings"][0].update(start_pfn=-1)), "pfn -1"),
        (broken(lambda d: d.update(cell_pages=0)), "cells of 0 pages"),
        (broken(lambda d: d.update(zones=[1])), "no object"),
    ],
)
def test_a_file_that_is_no_map_is_refused(data: Any, says: str, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    assert says in complaint(cli("map", "--from", path))


def test_a_range_that_is_not_there_is_refused(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core = unpacked(AMD64_400M)
    assert "no memory is there" in complaint(cli("-c", core, "map", "0x500000-0x600000"))
    assert "END after START" in complaint(cli("-c", core, "map", "0x20-0x10"))
    assert "not a range" in complaint(cli("-c", core, "map", "dma"))
    saved = write(tmp_path / "map.json", tiny())
    assert "0x1000-0x2000: no memory is there" in complaint(cli("map", "--from", saved, "0x1000-0x2000"))
    assert "No such file" in complaint(cli("map", "--from", tmp_path / "nothing"))


def test_a_range_of_a_saved_map_has_what_is_there(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core, saved = unpacked(I386_HOLE), tmp_path / "map.json"
    whole = of(cli, "-c", core, "map", "--format", "json")
    write(saved, whole)
    # The hole begins inside the block at 0xa000; cells of a whole map are blocks.
    data = of(cli, "map", "--from", saved, "0xa100-0xa200", "--format", "json")
    live = of(cli, "-c", core, "map", "0xa000-0xa200", "--format", "json")
    assert (data["start_pfn"], data["end_pfn"], data["is_range"]) == (0xA000, 0xA200, True)
    assert data["findings"] == live["findings"] and len(data["findings"]) < len(whole["findings"])
    for pfn in range(0xA000, 0xA200, 0x20):
        assert named(data, pfn) == named(whole, pfn)
    assert sum(end - start for start, end, *_ in data["cells"]) == 0x200
    # Blocks of one class are one cell; what a range has of it is counted.
    low, high = 0x2000, 0x2800
    cut = of(cli, "map", "--from", saved, f"{low:#x}-{high:#x}", "--format", "json")
    assert all(sum(cell[4][1::2]) == cell[1] - cell[0] for cell in cut["cells"])
    assert all(sum(cell[5][1::2]) == cell[1] - cell[0] for cell in cut["cells"])
    assert (cut["cells"][0][0], cut["cells"][-1][1]) == (low, high)


def test_a_range_outside_of_a_saved_range_is_refused(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    saved = tmp_path / "map.json"
    cli("-c", unpacked(I386_HOLE), "map", "0xa000-0xa400", "--format", "json", "-o", saved)
    for format_ in ("text", "json", "html"):
        for pages in ("0x0-0x4000", "0xb000-0xc000"):
            assert f"{pages}: no memory is there" in complaint(cli("map", "--from", saved, pages, "--format", format_))
    assert of(cli, "map", "--from", saved, "0xa3ff-0xb000", "--format", "json")["start_pfn"] == 0xA3FF


def test_a_map_of_a_report_is_as_its_schema_says(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    cli("-c", unpacked(I386_HOLE), "scan", "--format", "json", "-o", saved)
    data = of(cli, "map", "--from", saved, "--format", "json")
    assert {item["state"] for item in data["memory"]} <= {"spanned", "online", "absent"}
    assert {f["id"] for f in data["findings"]} == {f["id"] for f in json.loads(saved.read_text())["findings"]}
    severities = [("error", "warning", "note").index(f["severity"]) for f in data["findings"]]
    assert severities == sorted(severities) and len(set(severities)) > 1
    cut = of(cli, "map", "--from", saved, "0xa000-0xa400", "--format", "json")
    assert 0 < len(cut["findings"]) < len(data["findings"])


@pytest.mark.parametrize("width", [40, 60])
def test_no_line_is_wider_than_asked_for(width: int, cli: Cli, unpacked: Unpacked) -> None:
    for name in (I386_HOLE, AMD64_NUMA, AMD64_400M):
        for by in ("state", "zone", "migratetype"):
            drawn = cli("-c", unpacked(name), "map", "--by", by, "--width", width).out
            assert max(map(len, drawn.splitlines())) <= width


def test_ranges_are_read_in_both_bases() -> None:
    assert parse_range("0x10-32") == (16, 32)
    with pytest.raises(MminspectError):
        parse_range("1-0x100000000000000000")


def test_sizes_are_short() -> None:
    assert [size(n) for n in (0, 4096, 1536 << 10, 5 << 40)] == ["0 B", "4 KiB", "1.5 MiB", "5 TiB"]


def test_the_worst_finding_of_a_range_wins() -> None:
    worst = Worst.of([("note", [(0, 100)]), ("error", [(50, 51)]), ("warning", [(40, 60)])])
    start, end = np.array([0, 40, 50, 51, 100]), np.array([40, 50, 51, 52, 200])
    assert worst.at(start, end).tolist() == [1, 2, 3, 2, 0]


def test_classes_of_all_states_have_names() -> None:
    for state in (INITIALIZED, *UNINITIALIZED_KINDS, *UNREADABLE_REASONS):
        assert name_of(BY_STATE + state)


def test_findings_behind_all_memory_are_no_trouble() -> None:
    worst = Worst.of([("error", [(1, 2), ((1 << 64) - 2, 1 << 64)])])
    assert worst.edges().max() == 1 << 62


def test_tails_that_lead_to_before_all_memory_have_a_class() -> None:
    picture = Picture(memory_map(zone(1, 0, 64)), 0)
    one = np.array([0], np.int64)
    cells = Cells(one, one + 8, one, np.array([0]), np.array([CONTINUED], np.uint8), one + 8)
    list(picture.take(0, Seen(cells, -5, None)))
    assert [name_of(code) for code in picture.cells.code.tolist()] == ["compound"]


def test_cells_are_made_larger_where_there_would_be_too_many() -> None:
    def order(pages: int, span: Range | None = None, finest: int | None = None) -> int:
        memory = memory_map(zone(1, 0, pages))
        section = Section(0, ((0, pages),), 0, 0)
        return cell_order(dataclasses.replace(memory, sections=(section,)), span, finest)

    block = SPARSE.pageblock_order
    assert order(map_.MAX_CELLS << block) == block
    assert order((map_.MAX_CELLS << block) + (1 << block)) == block + 1
    # A range is shown page by page, and has fewer cells.
    assert order(1 << 20, (0, map_.MAX_RANGE_CELLS)) == 0
    assert order(1 << 20, (5, map_.MAX_RANGE_CELLS + 6)) == 1
    assert order(1 << 20, (0, map_.MAX_RANGE_CELLS), finest=3) == 3
    assert order(1 << 10, (0, 1 << 20)) == 0


def test_what_is_absent_lies_between_what_is_there() -> None:
    memory = memory_map(zone(1, 8, 56))
    sections = tuple(
        Section(nr, ((start, end),), 0, 0) for nr, (start, end) in enumerate(((8, 16), (24, 32), (40, 48)))
    )
    found = map_.memory_states(dataclasses.replace(memory, sections=sections))
    assert [(item["start_pfn"], item["end_pfn"], item["state"]) for item in found] == [
        (8, 16, "online"),
        (16, 24, "absent"),
        (24, 32, "online"),
        (32, 40, "absent"),
        (40, 48, "online"),
        (48, 64, "absent"),
    ]


def test_memory_of_devices_is_drawn(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core, saved = unpacked(AMD64_DEVDAX), tmp_path / "map.json"
    data = of(cli, "-c", core, "map", "--format", "json")
    write(saved, data)
    device = data["classes"].index("device")
    cells = [cell for cell in data["cells"] if cell[4][0] == device]
    # What the tool's own rule says: 16,384 pages, of which 12,288 link to DMA32 and not to Device.
    assert sum(cell[1] - cell[0] for cell in cells) == 0x4000
    linked = {data["links"][cell[2]]["zone"]: 0 for cell in cells}
    for cell in cells:
        linked[data["links"][cell[2]]["zone"]] += cell[1] - cell[0]
    assert linked == {"Device": 4096, "DMA32": 12288}
    assert {"start_pfn": 0x19000, "end_pfn": 0x1D000, "state": "device"} in data["memory"]
    (finding,) = (f for f in data["findings"] if f["rule"] == "device-memory")
    assert sum(end - start for start, end in finding["pfns"]) == 12288
    wrong = [cell for cell in cells if data["severities"][cell[6]] == "error"]
    assert sum(cell[1] - cell[0] for cell in wrong) == 12288
    for source in (("-c", core), ("--from", saved)):
        text = cli("map", *source, "0x1ae00-0x1b400").out
        assert "device 1,536 (6 MiB)" in text and "E device-memory" in text
    assert "device" in cli("map", "--from", saved).out


def test_misuse_of_a_saved_map(cli: Cli, tmp_path: Path) -> None:
    saved = write(tmp_path / "map.json", tiny())
    assert complaint(cli("map", saved)).count("a saved map or report is given with --from") == 1
    (tmp_path / "core").write_bytes(b"\x7fELF")
    assert "a vmcore is given with -c" in complaint(cli("map", tmp_path / "core"))
    assert "the name of the saved map is empty" in complaint(cli("map", "--from", ""))
    for words in (("--jobs", "3"), ("--max-rate", "3"), ("--pageblock-order", "3")):
        assert "--from draws what was saved" in complaint(cli("map", "--from", saved, *words))
