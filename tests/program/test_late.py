# SPDX-License-Identifier: LGPL-2.1-or-later
"""mminspect installed where only root can read: whatever is imported later is imported before rights are given up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Unpacked
from tests.kit.support import AMD64_400M, ROOT

COMMANDS = (
    *(("scan", "--format", name, "CORE") for name in ("table", "json", "html", "ktap", "prometheus")),
    ("scan", "-v", "--jobs", "2", "CORE"),
    ("zones", "CORE"),
    ("-c", "CORE", "page", "0x1000"),
    ("-c", "CORE", "page", "--brief", "0x1000"),
    *(("triage", "--format", name, "CORE") for name in ("text", "html")),
    *(("-c", "CORE", "map", "--format", name) for name in ("text", "html")),
    *(("diff", "--format", name, "CORE", "CORE") for name in ("table", "html")),
    ("capture", "-o", "OUT", "CORE"),
    ("watch", "-c", "CORE", "--count", "1"),
)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root gives rights up")
    folder = tmp_path_factory.mktemp("private")
    shutil.copytree(ROOT / "mminspect", folder / "mminspect")
    folder.chmod(0o700)
    return folder


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_module_is_missed(words: tuple[str, ...], private: Path, unpacked: Unpacked, tmp_path: Path) -> None:
    names = {"CORE": str(unpacked(AMD64_400M)), "OUT": str(tmp_path / "out")}
    program = f"import sys; sys.path.insert(0, {str(private)!r}); from mminspect.__main__ import main; main()"
    command = [sys.executable, "-c", program, *(names.get(word, word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    # Triage of a kernel that didn't die has nothing to tell.
    assert done.returncode in ((0, 1, 2) if "triage" in words else (0, 1)), done.stderr
    assert "Traceback" not in done.stderr and "can't be loaded" not in done.stderr
