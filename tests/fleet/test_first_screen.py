# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hundred mixed files: the first screen of ``mminspect fleet show`` has the problems of the fleet."""

from __future__ import annotations

import lzma
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.commands.triage.test_lkdtm import FOLDER, SECTION
from tests.conftest import Cli, Plant
from tests.fleet.test_fleet import fleet_run
from tests.kit.support import AMD64_400M, AMD64_HEALTHY, VMCORES

pytest.importorskip("distributed")
pytest.importorskip("duckdb")

FILES = 200
# Lines of a terminal on which somebody works.
SCREEN = 50
# What dies of a bug that is known, and how many of it there are; and what lives.
KNOWN = {"amd64-5.10-bug": 9, "amd64-7.3-interleaved-enough": 6}
OTHERS = {"amd64-6.1-healthy": 3, "amd64-6.12-sysrq": 3, "amd64-7.2-null": 3}
# Pages that were never initialized, in the machines of the third problem.
ZEROED = ((AMD64_HEALTHY, 0x2000), (AMD64_HEALTHY, 0x4000), (AMD64_HEALTHY, 0x4400), (AMD64_400M, 0x3000))


def copies(folder: Path, names: dict[str, int]) -> None:
    """Put copies of stored vmcores there; what follows a compressed file is padding, and makes each another one."""
    for name, number in names.items():
        for copy in range(number):
            data = (VMCORES / f"{name}.xz").read_bytes() + bytes(4 * copy)
            (folder / f"{name}-{copy}.xz").write_bytes(data)


def logs() -> list[str]:
    """Get the logs of guests that lkdtm let die."""
    found: list[str] = []
    for path in sorted(FOLDER.glob("*.xz")):
        found += SECTION.split(lzma.decompress(path.read_bytes()).decode())[2::2]
    return found


@pytest.fixture
def mixed(plant: Plant, tmp_path: Path) -> Path:
    """Make the fleet."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    copies(folder, KNOWN)
    copies(folder, OTHERS)
    for name, pfn in ZEROED:
        fault = plant(name)
        fault.editor.write(fault.page(pfn), bytes(64 * fault.size))
        shutil.copy(fault.editor.path, folder / f"{name}-{pfn:#x}")
    (folder / "notes.txt").write_bytes(b"call back on Monday\n" * 9)
    (folder / "noise").write_bytes(bytes(range(256)) * 64)
    (folder / "cut.xz").write_bytes((VMCORES / "amd64-5.10-bug.xz").read_bytes()[:30_000])
    left = FILES - len(list(folder.iterdir()))
    for number, log in enumerate(logs()[:left]):
        (folder / f"dmesg-{number:03}").write_text(log)
    assert len(list(folder.iterdir())) == FILES
    return folder


def test_first_screen_has_the_three_problems(mixed: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    assert fleet_run(str(mixed), "--out", str(out)).returncode == 1
    lines = cli("fleet", "show", out, "--width", "100").out.splitlines()
    assert lines[0].startswith("197 files read, 1 failed, 2 skipped; ")
    screen = "\n".join(lines[:SCREEN])
    check(screen, "9 files: ", ("set_pfnblock_flags_mask()", "holes-in-zone-0", "5.10.262", "amd64-5.10-bug-"))
    check(screen, "6 files: ", ("known bug interleaved-nodes", "7.3.4", "amd64-7.3-interleaved-enough-"))
    check(screen, "4 files: ", ("/zeroed", "known bug none", "6.1.", "6.12."))


def check(screen: str, begin: str, words: Sequence[str]) -> None:
    """Check that the first screen has a group."""
    group = next(one for one in re.split(r"\n\n(?=\d+\. )", screen) if begin in one)
    assert [word for word in (*words, "mminspect triage /") if word not in " ".join(group.split())] == [], group
