# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makedumpfile itself writes, where it is installed: whole, in pieces, and cut."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mminspect.errors import TargetError
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import open_kernel
from mminspect.walk.scan import scan
from tests.conftest import Kernels, Scanned, Unpacked
from tests.kit.dumps import Machine
from tests.kit.support import AMD64_400M, summary

pytestmark = pytest.mark.skipif(shutil.which("makedumpfile") is None, reason="there is no makedumpfile")


@pytest.fixture(scope="module")
def source(unpacked: Unpacked, kernels: Kernels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the dump that makedumpfile reads."""
    path = tmp_path_factory.mktemp("source") / "vmcore"
    path.write_bytes(Machine(unpacked(AMD64_400M), kernels(AMD64_400M).prog["vmemmap"].value_()).elf())
    return path


def written(source: Path, directory: Path, *options: str) -> list[Path]:
    """Run makedumpfile."""
    paths = [directory / "a", directory / "b"] if "--split" in options else [directory / "a"]
    names = [] if "-F" in options else [str(path) for path in paths]
    command = ["makedumpfile", *options, "-d", "0", str(source), *names]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"makedumpfile can't do it here: {done.stderr.decode('utf-8', 'replace')[-200:]}")
    if "-F" in options:
        paths[0].write_bytes(done.stdout)
    return paths


def found(*paths: Path) -> tuple[Any, Any, int]:
    """Scan a dump; get findings, why it is not whole, and how many struct pages it lacks."""
    with open_kernel(Inputs(str(paths[0]), pieces=tuple(map(str, paths[1:])))) as kernel:
        report = scan(kernel)
    return summary(report.findings), report.target.get("incomplete"), report.summary["pages_unreadable"]


OPTIONS = ["-c", "-l", "-E", "-c -F", "-l -F", "-E -F", "-c --split", "-l --split"]


@pytest.mark.parametrize("options", OPTIONS)
def test_dump_is_read_whole(options: str, source: Path, tmp_path: Path, scanned: Scanned) -> None:
    assert found(*written(source, tmp_path, *options.split())) == (summary(scanned(AMD64_400M).findings), None, 0)


@pytest.mark.parametrize("options", OPTIONS[:5])
def test_dump_that_is_cut_is_read_as_far_as_it_goes(
    options: str, source: Path, tmp_path: Path, scanned: Scanned
) -> None:
    (path,) = written(source, tmp_path, *options.split())
    data = path.read_bytes()
    path.write_bytes(data[: -len(data) // 20])
    findings, incomplete, unreadable = found(path)
    assert "truncated" in incomplete
    assert unreadable > 0
    first = next(f[2] for f in findings if f[0] == "unreadable")
    assert [f for f in findings if f[3] < first] == [f for f in summary(scanned(AMD64_400M).findings) if f[3] < first]
    assert "uninitialized" not in [f[0] for f in findings]


def test_flattened_elf_dump_that_is_cut_has_no_program_headers(source: Path, tmp_path: Path) -> None:
    (path,) = written(source, tmp_path, "-E", "-F")
    path.write_bytes(path.read_bytes()[:-200000])
    with pytest.raises(TargetError, match="truncated"):
        found(path)
