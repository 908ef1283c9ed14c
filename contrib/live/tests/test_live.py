# SPDX-License-Identifier: LGPL-2.1-or-later
"""mminspect on running kernels, without debuginfo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contrib.live.rootfs import Job
from contrib.live.session import LiveGuest, started
from contrib.live.tests.conftest import kernel_or_skip
from contrib.live.trials import LAYOUTS, guest_with, hotplug, lru_findings, refused, scan_and_dump, soak

pytestmark = pytest.mark.vm
slow = pytest.mark.slow
NOTHING = Job("")
USER = 1000
SOAK_VARIABLE = "MMINSPECT_SOAK_SCANS"
SOAK_SCANS = 10


@pytest.mark.parametrize("version", [pytest.param("6.1", marks=slow), "6.12", pytest.param("7.2", marks=slow)])
def test_live_equals_dump(version: str, tmp_path: Path) -> None:
    """The scan of a running kernel says what the scan of its dump says."""
    guest = guest_with(kernel_or_skip(version), LAYOUTS["plain"], NOTHING)
    pair = scan_and_dump(guest, tmp_path / "core")
    assert pair.differences() == []
    assert pair.live["target"]["kind"] == "live"
    assert pair.live["target"]["types_from"] == "btf"
    assert pair.live["summary"]["pages_unreadable"] == 0
    assert pair.live["findings"]


@slow
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "plain"])
def test_layouts(layout: str, tmp_path: Path) -> None:
    """Holes, nodes and zones look the same from inside and in the dump."""
    pair = scan_and_dump(guest_with(kernel_or_skip("6.12"), LAYOUTS[layout], NOTHING), tmp_path / "core")
    assert pair.differences() == []


def one_line_of(text: str) -> str:
    """Return the one line of a complaint."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("mminspect: ")
    return lines[0]


def test_without_root() -> None:
    """A user without rights gets one line that names root."""
    refusal = refused(LiveGuest(kernel_or_skip("6.12"), Job("", USER)))
    assert (refusal.status, refusal.stdout) == (2, "")
    assert "root" in one_line_of(refusal.stderr)


def test_lockdown() -> None:
    """A kernel that is locked down gives one line that names lockdown."""
    refusal = refused(LiveGuest(kernel_or_skip("6.12"), NOTHING, append="lockdown=confidentiality"))
    assert (refusal.status, refusal.stdout) == (2, "")
    assert "lockdown=confidentiality" in one_line_of(refusal.stderr)


@slow
def test_root_without_capability() -> None:
    """Root whose CAP_SYS_RAWIO was taken away gets one line that names it."""
    script = (
        'setpriv --bounding-set=-sys_rawio --inh-caps=-sys_rawio mminspect scan >"$share/stdout" 2>"$share/stderr"; '
        'echo $? >"$share/status"'
    )
    with started(LiveGuest(kernel_or_skip("6.12"), Job(script))) as session:
        session.finish()
        assert (session.share / "status").read_text() == "2\n"
        assert (session.share / "stdout").read_text() == ""
        assert "CAP_SYS_RAWIO" in one_line_of((session.share / "stderr").read_text())


@slow
def test_soak() -> None:
    """Scans under memory pressure find nothing that the quiet guest doesn't have."""
    scans = int(os.environ.get(SOAK_VARIABLE, SOAK_SCANS))
    guest = LiveGuest(kernel_or_skip("7.2"), NOTHING, qemu_args=LAYOUTS["numa"].qemu_args, timeout=600 + 60 * scans)
    series = soak(guest, scans)
    assert series.scans == scans
    assert (series.failures, series.strangers) == ([], [])


@slow
@pytest.mark.parametrize(
    ("version", "online", "remove"),
    [("7.2", "online", False), ("6.12", "offline", False), ("6.12", "online_movable", True)],
)
def test_hotplug(version: str, online: str, remove: bool) -> None:
    """Memory that comes and goes while scans run makes no scan fail and no false finding."""
    kernel = kernel_or_skip(version)
    guest = LiveGuest(kernel, NOTHING, append=f"memhp_default_state={online}", cpus=2, timeout=1800)
    series = hotplug(guest, 4, remove)
    assert (series.failures, series.strangers) == ([], [])
    if online != "offline":
        assert len(series.pages) > 1


@slow
@pytest.mark.parametrize("version", ["6.1", "6.12", "7.2"])
@pytest.mark.parametrize("generations", [False, True])
def test_lru_lists_of_a_busy_guest(version: str, generations: bool, tmp_path: Path) -> None:
    """Lists that change all the time are in order at any moment."""
    guest = LiveGuest(kernel_or_skip(version), NOTHING, "640M", cpus=2)
    assert lru_findings(guest, generations, 3, tmp_path) == []
