# SPDX-License-Identifier: LGPL-2.1-or-later
"""The units are ones that systemd understands, and leave /proc/kcore readable."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CONTRIB = Path(__file__).resolve().parents[2]
UNITS = (
    CONTRIB / "systemd" / "mminspect.service",
    CONTRIB / "systemd" / "mminspect.timer",
    CONTRIB / "kdump" / "mminspect-kdump.service",
)
MOST_EXPOSED = 30
"""In tenths, as systemd-analyze takes it."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
    )


@pytest.fixture(name="units")
def units_fixture(tmp_path: Path) -> list[str]:
    """Return copies of the units whose commands exist on this machine."""
    program = shutil.which("true")
    assert program
    paths = []
    for unit in UNITS:
        text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", unit.read_text())
        path = tmp_path / unit.name
        path.write_text(text)
        paths.append(str(path))
    return paths


@needs_systemd
def test_verify(units: list[str]) -> None:
    """systemd finds nothing to complain about, not even an unknown setting."""
    done = analyze("verify", *units)
    ours = [line for line in done.stderr.splitlines() if "mminspect" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@needs_systemd
def test_exposure(units: list[str]) -> None:
    """The services are as locked up as reading /proc/kcore allows."""
    services = [unit for unit in units if unit.endswith(".service")]
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", *services)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze can't look at units offline")
    assert done.returncode == 0, done.stdout[-600:] + done.stderr


def test_kcore_stays_readable() -> None:
    """Settings that hide /proc/kcore or take CAP_SYS_RAWIO away are off."""
    lines = UNITS[0].read_text().splitlines()
    for line in ("ProtectKernelTunables=no", "ProcSubset=all", "PrivateDevices=no"):
        assert line in lines
    capabilities = next(line for line in lines if line.startswith("CapabilityBoundingSet="))
    assert "CAP_SYS_RAWIO" in capabilities


def test_metrics_file_can_be_written() -> None:
    """The directory of the metrics is writable for the service."""
    text = UNITS[0].read_text()
    target = re.search(r"(?m)^Environment=MMINSPECT_TEXTFILE=(\S+)$", text)
    writable = re.search(r"(?m)^ReadWritePaths=-?(\S+)$", text)
    assert target and writable
    assert str(Path(target.group(1)).parent) == writable.group(1)
    assert "-o ${MMINSPECT_TEXTFILE}" in text


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.suffix == ".service"], ids=lambda unit: unit.stem)
def test_services_have_limits_and_may_sandbox_themselves(unit: Path) -> None:
    """A oneshot service ends with TimeoutStartSec=; RuntimeMaxSec= is for what runs on."""
    settings = dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))
    for name in ("MemoryMax", "MemorySwapMax", "TasksMax", "TimeoutStartSec", "LimitCORE", "LimitNOFILE"):
        assert settings[name] not in ("", "infinity")
    assert {"CAP_SETUID", "CAP_SETGID"} <= set(settings["CapabilityBoundingSet"].split())
    assert "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self" in unit.read_text()
