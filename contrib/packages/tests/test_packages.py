# SPDX-License-Identifier: LGPL-2.1-or-later
"""Man pages, completions and the files of packages agree with the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from contrib.packages.__main__ import completions
from contrib.packages.man import pages, paragraphs
from mminspect import __version__
from mminspect.cli.usage import main

HERE = Path(__file__).resolve().parents[1]
PAGES = dict(pages())


def test_every_command_has_a_page() -> None:
    fleet = main.commands["fleet"]
    assert isinstance(fleet, click.Group)
    names = {f"mminspect-{name}" for name in main.commands} | {f"mminspect-fleet-{name}" for name in fleet.commands}
    assert set(PAGES) == {f"{name}.1" for name in {"mminspect", *names}}


def test_pages_have_all_options_and_exit_statuses() -> None:
    for option in ("--pid", "--slab", "--brief", "--format", "--user"):
        assert option.replace("-", "\\-") in PAGES["mminspect-page.1"]
    for option in ("--core", "--btf", "--sandbox"):
        assert option.replace("-", "\\-") in PAGES["mminspect.1"]
    for text in PAGES.values():
        assert re.findall(r"(?m)^\\fB(\d+)\\fR$", text) == ["0", "1", "2", "129", "130", "141", "143"]
        assert "`" not in text and "](" not in text


def test_lines_that_begin_like_commands_are_text() -> None:
    assert paragraphs(".TH is no heading\n\n'br neither, a-b\\c") == (
        "\\&.TH is no heading\n.PP\n\\&'br neither, a\\-b\\ec"
    )


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_takes_the_pages(tmp_path: Path) -> None:
    for name, text in PAGES.items():
        path = tmp_path / name
        path.write_text(text)
        done = subprocess.run(["man", "--warnings", "-l", str(path)], capture_output=True, text=True, check=True)
        assert done.stderr == "" and "NAME" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_take_their_completion(shell: str, tmp_path: Path) -> None:
    scripts = {place.split("/")[1].split("-")[0]: text for place, text in completions()}
    assert "_MMINSPECT_COMPLETE" in scripts[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "script"
    path.write_text(scripts[shell])
    subprocess.run([shell, "-n", str(path)], check=True)


def test_packages_have_the_version_of_the_program() -> None:
    assert f"Version:        {__version__}\n" in (HERE / "mminspect.spec").read_text()
    assert (HERE / "debian" / "changelog").read_text().startswith(f"mminspect ({__version__}) ")
