# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command that makes the stored vmcores anew."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contrib.kernels import fixtures
from contrib.kernels.errors import HarnessError
from contrib.kernels.fixtures import FIXTURES, SUFFIX, VMCORES, differences, make_fixture
from contrib.kernels.matrix import find_row

NAME = "amd64-6.12-400m"
OTHER = "amd64-6.1-healthy"


@pytest.fixture(name="dumps")
def dumps_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let an unpacked fixture stand for the dump of its row. Return the directory for the result."""
    core = tmp_path / "core"
    core.write_bytes(lzma.decompress((VMCORES / (NAME + SUFFIX)).read_bytes()))
    monkeypatch.setattr(fixtures, "dumped", lambda row, directory, again: (core, SimpleNamespace(release=""), ""))
    (tmp_path / "made").mkdir()
    return tmp_path / "made"


def test_every_stored_vmcore_can_be_made_anew() -> None:
    assert {path.name for path in VMCORES.glob("*" + SUFFIX)} == {name + SUFFIX for name in FIXTURES}
    for row in FIXTURES.values():
        find_row(row)


def test_every_stored_vmcore_has_its_command_in_the_documentation() -> None:
    page = (VMCORES / "README.md").read_text()
    for name, row in FIXTURES.items():
        lines = [line for line in page.splitlines() if line.endswith(f" capture -o {name}{SUFFIX}")]
        assert [line.split()[:3] for line in lines] == [["mminspect", "-c", f"{row}.elf"]]
        assert f"| `{name}{SUFFIX}` |" in page


def test_fixture_says_what_its_dump_says(dumps: Path) -> None:
    captured = make_fixture(NAME, dumps, dumps)
    assert captured.path == dumps / (NAME + SUFFIX)
    assert captured.command == f"mminspect -c core capture -o {NAME}{SUFFIX}"
    assert list(dumps.iterdir()) == [captured.path]
    assert captured.report["summary"]["by_rule"]["zone-id"]["findings"] == 1


def test_fixture_that_says_something_else_is_refused(dumps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture_another(core: Path, types: Any, output: Path) -> list[str]:
        shutil.copyfile(VMCORES / (OTHER + SUFFIX), output)
        return []

    monkeypatch.setattr(fixtures, "capture", capture_another)
    with pytest.raises(HarnessError, match="differ in target, zones, summary, findings"):
        make_fixture(NAME, dumps, dumps)
    assert list(dumps.iterdir()) == []


def test_unknown_fixture_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no fixture banana"):
        make_fixture("banana", tmp_path, tmp_path)


def test_path_and_time_are_no_difference() -> None:
    def report(path: str, seconds: float, findings: int) -> dict[str, Any]:
        return {
            "target": {"path": path, "release": "6.1"},
            "summary": {"elapsed_seconds": seconds, "pages_examined": 4},
            "findings": [{}] * findings,
        }

    assert differences(report("one", 1.0, 3), report("other", 2.0, 3)) == []
    assert differences(report("one", 1.0, 3), report("one", 1.0, 2)) == ["findings"]
