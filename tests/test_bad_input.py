# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad input ends with status 2, one line that says what is wrong, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli, Edited, Opened, Unpacked, complaint
from tests.kit.support import AMD64_HEALTHY, AMD64_LOW_RAM, I386_HOLE, python


def test_zone_that_spans_too_much(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    zone = opened(AMD64_HEALTHY)[0].prog["node_data"][0].node_zones[1]
    core.write_word(zone.spanned_pages.address_, 1 << 60)
    message = complaint(cli("-c", core.path, "scan"))
    assert "spanned_pages 0x1000000000000000" in message
    assert "node 0 zone DMA32" in message


def test_zone_that_starts_too_late(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    zone = opened(AMD64_HEALTHY)[0].prog["node_data"][0].node_zones[1]
    core.write_word(zone.zone_start_pfn.address_, (1 << 64) - 1)
    assert "zone_start_pfn" in complaint(cli("-c", core.path, "scan"))


def test_number_of_sections_that_can_not_be(cli: Cli, edited: Edited) -> None:
    core = edited(AMD64_HEALTHY)
    core.replace_in_notes(b"LENGTH(mem_section)=2048\n", b"LENGTH(mem_section)=9999\n")
    assert "sections in mem_section" in complaint(cli("-c", core.path, "scan"))


def test_section_size_that_can_not_be(cli: Cli, edited: Edited) -> None:
    core = edited(AMD64_HEALTHY)
    core.replace_in_notes(b"NUMBER(SECTION_SIZE_BITS)=27\n", b"NUMBER(SECTION_SIZE_BITS)=63\n")
    complaint(cli("-c", core.path, "scan"))


def test_mem_section_that_points_nowhere(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    core.write_word(opened(AMD64_HEALTHY)[0].prog["mem_section"].value_(), 0xDEAD00000000)
    complaint(cli("-c", core.path, "scan"))


def test_bitmap_that_can_not_be_read(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    section = opened(AMD64_HEALTHY)[0].prog["mem_section"][0][1]
    core.write_word(section.usage.address_, 0xFFFF8880DEAD0000)
    assert "bitmap of section 1" in complaint(cli("-c", core.path, "scan"))


def test_node_without_pgdat(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    core.write_word(opened(AMD64_HEALTHY)[0].prog["node_data"][0].address_, 0)
    assert "no pgdat" in complaint(cli("-c", core.path, "scan"))


def test_pgdat_that_points_nowhere(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    core.write_word(opened(AMD64_HEALTHY)[0].prog["node_data"][0].address_, 0xDEAD00000000)
    complaint(cli("-c", core.path, "scan"))


def test_memmap_that_is_not_there(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_LOW_RAM)
    vmemmap = opened(AMD64_LOW_RAM)[0].prog["vmemmap"].value_()
    for start, end in ((0x0, 0x8000), (0x100000, 0x108000)):
        core.exclude(vmemmap + start * 64, vmemmap + end * 64)
        core = type(core)(core.path)
    assert "not one struct page" in complaint(cli("-c", core.path, "scan"))


def test_flatmem_that_is_too_large(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(I386_HOLE)
    core.write_word(opened(I386_HOLE)[0].prog["max_mapnr"].address_, 0xFFFFFFFF)
    assert "max_mapnr" in complaint(cli("-c", core.path, "scan"))


def test_zone_names_that_can_not_be_read_are_no_reason_to_fail(cli: Cli, edited: Edited, opened: Opened) -> None:
    core = edited(AMD64_HEALTHY)
    core.write_word(opened(AMD64_HEALTHY)[0].prog["node_data"][0].node_zones[1].name.address_, 0xDEAD00000000)
    done = cli("-c", core.path, "scan", "--format", "json")
    assert done.status == 0
    assert done.json()["zones"][1]["name"] == "id 1"


def test_pageblock_order_that_a_capture_lacks_is_named(cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "--pageblock-order", "1", "scan"))
    assert message.startswith("with --pageblock-order 1: ")


def test_help_on_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mminspect", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "mminspect: the output: No space left on device\n"


def test_rules_without_docstrings() -> None:
    environment = {**os.environ, "PYTHONOPTIMIZE": "2"}
    assert python("rules", "mixed-zone", env=environment).status == 0


def test_output_in_a_directory_that_is_not_there(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", tmp_path / "missing" / "report"))
    assert message.startswith(f"{tmp_path}/missing/report: can't be written: ")
    assert "directory" in message


def test_output_that_is_a_directory(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert "is a directory" in complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_output_to_a_full_device(cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", "-o", "/dev/full"))
    assert message == "/dev/full: can't be written: No space left on device"


@pytest.mark.parametrize("command", ["scan", "capture", "watch"])
@pytest.mark.parametrize("how", ["itself", "link", "hard link", "other path"])
def test_output_onto_the_input(how: str, command: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_bytes(unpacked(AMD64_HEALTHY).read_bytes())
    output = core if how == "itself" else tmp_path / "out"
    if how == "link":
        output.symlink_to(core)
    elif how == "hard link":
        output.hardlink_to(core) if sys.version_info >= (3, 10) else os.link(core, output)
    elif how == "other path":
        output = tmp_path / "." / ".." / tmp_path.name / "core"
    more = ("--format", "prometheus", "--count", "1") if command == "watch" else ()
    before = core.read_bytes()
    message = complaint(cli("-c", core, command, "-o", output, *more))
    assert "is a file that is read" in message
    assert core.read_bytes() == before


def test_output_onto_a_btf_file(cli: Cli, unpacked: Unpacked, small: Any) -> None:
    path = small(b"x")
    assert "is a file that is read" in complaint(cli("-c", unpacked(AMD64_HEALTHY), "--btf", path, "scan", "-o", path))


@pytest.mark.parametrize("ending", [".bz2", ".lz4", ".zip", ".ZIP"])
def test_capture_with_an_ending_that_it_can_not_have(ending: str, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    output = tmp_path / f"core{ending}"
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "capture", "-o", output))
    assert ".gz, .xz or .zst" in message
    assert not output.exists()


def test_capture_in_a_directory_that_is_not_there(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    complaint(cli("-c", unpacked(AMD64_HEALTHY), "capture", "-o", tmp_path / "missing" / "core"))


def test_output_of_a_scan_that_fails_leaves_nothing(cli: Cli, small: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    complaint(cli("-c", small(b"x" * 100), "scan", "-o", tmp_path / "out" / "report"))
    assert list((tmp_path / "out").iterdir()) == []


def test_output_of_a_scan_that_fails_keeps_what_was_there(cli: Cli, small: Any, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.write_text("old")
    complaint(cli("-c", small(b"x" * 100), "scan", "-o", report))
    assert report.read_text() == "old"


@pytest.mark.parametrize("option", ["--select", "--ignore"])
def test_rule_that_is_none(option: str, cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", option, "mixed-zone,banana"))
    assert "'banana'" in message
    assert "mixed-zone" in message


def test_no_rule_left(cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "scan", "--select", "zone-id", "--ignore", "zone-id"))
    assert "no rule is left" in message


def test_rules_of_a_rule_that_is_none(cli: Cli) -> None:
    assert "'banana'" in complaint(cli("rules", "banana"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("scan", "--format", "xml"),
        ("scan", "--fail-on", "banana"),
        ("banana",),
        ("--pageblock-order", "x", "scan"),
        ("--pageblock-order", "0", "scan"),
        ("scan", "extra"),
        ("--core",),
        ("capture",),
        ("watch", "--interval", "0s"),
        ("watch", "--interval", "99999999999999h"),
        ("watch", "--interval", "soon"),
        ("scan", "--select", ","),
    ],
)
def test_bad_usage_has_status_2(arguments: Any, cli: Cli) -> None:
    done = cli(*arguments)
    assert done.status == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("mminspect: ")
    assert "please report it" not in line


def test_module_that_cannot_be_loaded_is_one_line_and_no_bug(unpacked: Unpacked) -> None:
    program = "import sys; from mminspect.cli import run as cli; sys.modules['mminspect.walk.engine'] = None; cli.run()"
    core = str(unpacked(AMD64_HEALTHY))
    done = subprocess.run(
        [sys.executable, "-c", program, "-c", core, "scan"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("mminspect: a module can't be loaded, perhaps for lack of memory: ")
    assert "please report it" not in line


def test_pageblock_order_larger_than_a_section(cli: Cli, unpacked: Unpacked) -> None:
    message = complaint(cli("-c", unpacked(AMD64_HEALTHY), "--pageblock-order", "20", "scan"))
    assert "larger than a section" in message


@pytest.mark.parametrize("command", ["zones", "capture"])
def test_other_commands_complain_alike(command: str, cli: Cli, tmp_path: Path) -> None:
    more = ("-o", tmp_path / "out") if command == "capture" else ()
    assert "No such file" in complaint(cli("-c", tmp_path / "missing", command, *more))
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(unpacked: Unpacked, tmp_path: Path) -> None:
    done = python("--debug", "-c", str(tmp_path / "missing"), "scan")
    assert done.status == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("mminspect: ")


def test_complaint_in_a_process_of_its_own(unpacked: Unpacked, tmp_path: Path) -> None:
    assert "No such file" in complaint(python("-c", str(tmp_path / "missing"), "scan"))
