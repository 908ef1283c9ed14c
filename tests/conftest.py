# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures: the stored vmcores, unpacked, opened and scanned once a session."""

from __future__ import annotations

import lzma
import shutil
import tempfile
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import HealthCheck, settings

from mminspect.findings import Report
from mminspect.kernel.kernel import Kernel
from mminspect.program.target import Target
from mminspect.typeinfo.load import TypeSource
from mminspect.walk.scan import scan
from tests.kit.planted import Fault
from tests.kit.support import VMCORES, CoreEditor, Done, open_core, run_here

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the tests that boot a kernel."""
    config.addinivalue_line("markers", "vm: boots a real kernel under QEMU")


Unpacked = Callable[[str], Path]
Kernels = Callable[[str], Kernel]
Opened = Callable[[str], tuple[Target, TypeSource]]
Scanned = Callable[[str], Report]
Edited = Callable[[str], CoreEditor]
Plant = Callable[[str], Fault]
Cli = Callable[..., Done]


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """Give the unpacked file of a stored vmcore. Don't change it."""
    directory = tmp_path_factory.mktemp("vmcores")

    def get(name: str) -> Path:
        path = directory / name
        if not path.exists():
            path.write_bytes(lzma.decompress((VMCORES / f"{name}.xz").read_bytes()))
        return path

    return get


@pytest.fixture(scope="session")
def kernels(unpacked: Unpacked) -> Kernels:
    """Give the kernel of a stored vmcore."""
    known: dict[str, Kernel] = {}

    def get(name: str) -> Kernel:
        if name not in known:
            known[name] = open_core(unpacked(name))
        return known[name]

    return get


@pytest.fixture(scope="session")
def opened(kernels: Kernels) -> Opened:
    """Give a stored vmcore as a target with types."""
    return lambda name: (kernels(name).target, kernels(name).types)


@pytest.fixture(scope="session")
def scanned(kernels: Kernels) -> Scanned:
    """Give the report of a stored vmcore."""
    known: dict[str, Report] = {}

    def get(name: str) -> Report:
        if name not in known:
            known[name] = scan(kernels(name))
        return known[name]

    return get


@pytest.fixture
def edited(unpacked: Unpacked, tmp_path: Path) -> Edited:
    """Give an editor of a copy of a stored vmcore."""

    def get(name: str) -> CoreEditor:
        path = tmp_path / f"{name}.copy"
        shutil.copyfile(unpacked(name), path)
        return CoreEditor(path)

    return get


@pytest.fixture
def plant(edited: Edited, opened: Opened, scanned: Scanned) -> Plant:
    """Give a copy of a stored vmcore to plant faults in."""
    return lambda name: Fault(name, edited(name), opened(name)[0].prog, scanned(name))


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """
    Run the command line in this process.

    What it writes is caught at the file descriptors. Temporary files go to a directory of their own, which must be
    empty afterwards.
    """
    temporary = tmp_path / "tmpdir"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        status = run_here([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert list(temporary.iterdir()) == []
        return Done(status, out, err)

    return call


def complaint(done: Done) -> str:
    """Check that a command line failed as it should, and get what it says."""
    assert done.status == 2, (done.status, done.err)
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("mminspect: ")
    assert "Traceback" not in done.err
    # An exception's name in front means that nobody thought of this input.
    assert "please report it" not in done.err, done.err
    return lines[0][len("mminspect: ") :]


@pytest.fixture
def refused(cli: Cli) -> Callable[[object], str]:
    """Scan a file that must be refused; give the complaint."""
    return lambda path: complaint(cli("-c", path, "scan"))


@pytest.fixture
def small(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a file."""

    def write(data: bytes) -> Path:
        path = tmp_path / "input"
        path.write_bytes(data)
        return path

    return write
