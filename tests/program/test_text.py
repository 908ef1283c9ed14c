# SPDX-License-Identifier: LGPL-2.1-or-later
"""No text of a vmcore, of its name or of its log reaches a terminal or another program as it is."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mminspect.findings import Report
from mminspect.program.text import Guarded, kernel_name, lines, one_line
from mminspect.render import csv_, json_, ktap, ndjson, prometheus, report
from mminspect.render.map import write_map
from mminspect.render.style import Style
from tests.conftest import Cli, Unpacked
from tests.kit.support import AMD64_HEALTHY, I386_HOLE, ROOT, CoreEditor, open_core, python, scan_file

# Clears the screen, sets the title, C1's CSI, DEL, turns text around, hides it, ends a line, isn't a character.
HOSTILE = "\x1b[2J\x1b]0;x\x07\x9b2J\x7f\u202e\u200b\u2066\ufeff\u2028\U000e0041\r\n\t\x00\udcff"


def is_harmless(text: str) -> bool:
    """Tell by Unicode's own tables whether text has nothing that moves or hides other text, but line ends."""
    return all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


def test_nothing_that_moves_or_hides_text_is_left() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            assert one_line(character).isascii(), hex(code)
        # Of the formats, the Arabic number signs and hieroglyphs' joiners have a shape of their own.
        if unicodedata.bidirectional(character) in ("RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"):
            assert one_line(character).isascii(), hex(code)
    assert one_line("\u200b\u200d\u2060\ufeff\xad") == r"\u200b\u200d\u2060\ufeff\xad"
    assert is_harmless(one_line(HOSTILE))
    assert one_line("a\nb\tc\rd\x1b\x85\udcff") == r"a\nb\tc\rd\x1b\x85\xff"
    assert one_line("Größe 漢字") == "Größe 漢字"
    assert lines("a\nb\x1b") == "a\nb\\x1b"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_gets_the_cells_of_a_map(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core, saved = unpacked(I386_HOLE), tmp_path / "map.json"
    data = cli("-c", core, "map", "--format", "json", "-o", saved) and json.loads(saved.read_text())
    for by in ("state", "zone", "migratetype"):
        drawn = io.StringIO()
        write_map(data, by, drawn, Style(80, color=True))
        assert drawn.getvalue().count("\x1b[0;1;38;5;") > 3
        out = Terminal()
        Guarded(out).write(drawn.getvalue())
        assert out.getvalue() == drawn.getvalue()
    # A color that isn't taken back at once would reach what follows.
    out = Terminal()
    Guarded(out).write("\x1b[0;38;5;0;48;5;0mhidden\x1b[0m")
    assert out.getvalue() == "\\x1b[0;38;5;0;48;5;0mhidden\x1b[0m"


def test_terminal_gets_only_the_colors_that_are_our_own() -> None:
    out = Terminal()
    Guarded(out).write("\x1b[31merror\x1b[0m \x1b[32mgreen\x1b[5m\x1b[2J\n")
    assert out.getvalue() == "\x1b[31merror\x1b[0m \\x1b[32mgreen\\x1b[5m\\x1b[2J\n"
    out = io.StringIO()
    Guarded(out).write("\x1b[31merror\x1b[0m")  # type: ignore[arg-type]
    assert out.getvalue() == "\\x1b[31merror\\x1b[0m"


def test_what_an_encoding_lacks_is_shown() -> None:
    data = io.BytesIO()
    out = io.TextIOWrapper(data, encoding="ascii")
    Guarded(out).write("Größe")
    out.flush()
    assert data.getvalue() == b"Gr\\xf6\\xdfe"


@pytest.mark.parametrize(
    ("data", "limit", "text"),
    [
        (b"6.12.1-amd64", 64, "6.12.1-amd64"),
        (b"Normal\x1b[2J", 16, r"Normal\x1b[2J (damaged)"),
        (b"\xff\xfe", 16, r"\xff\xfe (damaged)"),
        (b"a" * 20, 16, "a" * 16 + " (damaged)"),
        (b"a" * 16, 16, "a" * 16),
    ],
)
def test_name_that_no_kernel_has_is_said_to_be_damaged(data: bytes, limit: int, text: str) -> None:
    assert kernel_name(data, limit) == text


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory, unpacked: Unpacked) -> Report:
    report = scan_file(unpacked(AMD64_HEALTHY))
    findings = [replace(f, zone="=cmd\x1b[2J", message="@SUM(1)" + HOSTILE) for f in report.findings]
    target = {**report.target, "path": HOSTILE, "release": HOSTILE}
    return report._replace(findings=findings, target=target)


@pytest.mark.parametrize("module", [csv_, json_, ktap, ndjson, prometheus, report])
def test_no_format_lets_hostile_text_through(module: Any, hostile_report: Report) -> None:
    out = io.StringIO()
    module.write_report(hostile_report, Guarded(out), Style(notes=True, next_steps=("mminspect", HOSTILE)))
    assert is_harmless(out.getvalue())
    assert out.getvalue().isascii()


def test_json_holds_the_text_and_no_lone_surrogates(hostile_report: Report) -> None:
    out = io.StringIO()
    json_.write_report(hostile_report, out, Style())
    # A strict reader: jq and others refuse or replace lone surrogates.
    data = json.loads(out.getvalue())
    json.dumps(data, ensure_ascii=False).encode("utf-8")
    assert data["target"]["path"] == HOSTILE.replace("\udcff", r"\xff")
    assert json.loads(json_.dumps({"\ud800": "\U0001f600\\ud800"})) == {r"\ud800": "\U0001f600\\ud800"}


def test_csv_starts_no_formula(hostile_report: Report) -> None:
    out = io.StringIO()
    csv_.write_report(hostile_report, out, Style())
    rows = list(csv.reader(io.StringIO(out.getvalue())))
    assert len(rows) == len(hostile_report.findings) + 1 > 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_names_of_a_damaged_dump_are_shown_and_said_to_be_damaged(unpacked: Unpacked, tmp_path: Path) -> None:
    path = tmp_path / "core"
    shutil.copy(unpacked(AMD64_HEALTHY), path)
    editor = CoreEditor(path)
    kernel = open_core(path)
    release = kernel.target.vmcoreinfo.release
    zone = kernel.prog["node_data"][0].node_zones[1]
    editor.write(zone.name.value_(), b"D\x1b[2J")
    editor.replace_in_notes(b"OSRELEASE=" + release.encode(), b"OSRELEASE=" + release[:-4].encode() + b"\x1b[2J")
    expected = release[:-4] + r"\x1b[2J (damaged)"
    data = python("-c", str(path), "scan", "--format", "json").json()
    assert data["target"]["release"] == expected
    assert r"D\x1b[2J (damaged)" in {z["name"] for z in data["zones"]}
    for command in ("scan", "zones", "triage"):
        done = python("-c", str(path), command)
        # Without a log, triage can't say why the kernel died.
        assert done.status == (2 if command == "triage" else 0), done.err
        assert is_harmless(done.out) and "(damaged)" in done.out


@pytest.mark.parametrize("name", [b"a\nb", b"\x1b[2Jx", b"\xff\xfe", "\u202eeroc.x".encode(), b"-\r"])
def test_message_is_one_line_whatever_the_name_of_the_file(name: bytes, tmp_path: Path) -> None:
    directory = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(directory)
    path = directory + b"/" + name
    Path(os.fsdecode(path)).write_bytes(b"no vmcore at all")
    for words in ([b"-c", path, b"scan"], [b"triage", path + b"x"], [b"-c", path + b"x", b"zones"]):
        command = [sys.executable.encode(), b"-m", b"mminspect", *words]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60, cwd=ROOT)
        assert done.returncode == 2
        text = done.stderr.decode()
        assert text.count("\n") == 1 and text.endswith("\n")
        assert is_harmless(text)


def test_report_of_a_file_with_a_hostile_name_is_valid(unpacked: Unpacked, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/a\nb\xff\x1b[2J\x7f"
    shutil.copy(unpacked(AMD64_HEALTHY), path)
    command = [sys.executable.encode(), b"-m", b"mminspect", b"-c", path]
    done = subprocess.run([*command, b"scan", b"--format", b"json"], capture_output=True, check=False, timeout=60)
    data = json.loads(done.stdout.decode("ascii"))
    assert data["target"]["path"].endswith("/a\nb\\xff\x1b[2J\x7f")
    assert b"\x7f" not in done.stdout and b"\\ud" not in done.stdout
    done = subprocess.run([*command, b"triage"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 2 and is_harmless(done.stdout.decode())
