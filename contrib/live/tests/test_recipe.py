# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of the parts of the recipe that need no guest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Kernel
from contrib.live import rootfs
from contrib.live.__main__ import main
from contrib.live.compare import differences, keys, strangers
from contrib.live.kernels import find_kernel
from contrib.live.session import LiveGuest, guest_of
from contrib.live.trials import Series, count_of

KERNEL = Kernel("6.12", Path("/vmlinuz"), Path("/modules"), None)


def report(*pfns: int, managed: int = 8) -> dict[str, Any]:
    """Return a report with a finding at each pfn."""
    zone = {"node": 0, "index": 1, "name": "DMA32", "start_pfn": 0, "end_pfn": 9, "managed": managed}
    finding = {"end_pfn": 99, "rule": "zone-id", "severity": "error", "node": None, "zone": None}
    target = dict.fromkeys(("release", "pageblock_order", "memory_model", "bits_per_pageblock", "page_flags_layout"))
    return {
        "target": target,
        "zones": [zone],
        "summary": {"elapsed_seconds": 1.5, "pages_examined": 7, "transient": {"zone-id": 2}},
        "findings": [{"start_pfn": pfn, **finding} for pfn in pfns],
    }


def test_differences() -> None:
    """A finding or a zone that only one side has is a difference."""
    assert differences(report(1, 2), report(2, 1)) == []
    lines = differences(report(1), report(2))
    assert lines == [
        "live only: error zone-id [0x1, 0x63) node -1 ",
        "dump only: error zone-id [0x2, 0x63) node -1 ",
    ]
    assert "zone (0, 1)" in differences(report(managed=7), report())[0]


def test_series() -> None:
    """Findings that the quiet guest had are not counted."""
    series = Series()
    series.add(0, report(1), [report(1)])
    series.add(1, report(1, 5), [report(1)])
    assert series.strangers == [(1, strangers(report(5))[0])]
    assert keys(report(5)) == set(strangers(report(5)))
    assert str(series) == "2 scans, 0 failed, 1 false findings, 4 transient, 1.50 s each"
    assert count_of(3) == 3 and count_of({"a": 1, "b": {"c": 2}}) == 3


def test_closed_directories_are_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in a directory that others can't enter is shown to them again in a tmpfs."""
    monkeypatch.setattr(rootfs, "COVERED", {Path("/run"): "755"})
    monkeypatch.setattr(rootfs, "is_closed", lambda directory: directory.name == "closed")
    place = tmp_path / "closed" / "python"
    assert rootfs.cover_of(place, True) == place.parent
    assert rootfs.cover_of(place, False) is None
    lines = rootfs.cover_lines([place], True)
    mount = lines.index(f"mount -t tmpfs -o mode=755 none /new{place.parent}")
    assert lines[mount + 1 :] == [f"mkdir -p /new{place}", f"mount -o bind /host{place} /new{place}"]
    assert rootfs.cover_lines([Path("/run/python")], False)[1:] == [
        "mkdir -p /new/run/python",
        "mount -o bind /host/run/python /new/run/python",
    ]


def test_the_interpreter_is_needed() -> None:
    """The paths of the interpreter and of this checkout are among those that the guest needs."""
    paths = rootfs.needed_paths()
    for path in (rootfs.CHECKOUT, Path(sys.prefix), Path(sys.executable).resolve()):
        assert any(path == one or one in path.parents for one in paths)


def test_lines_of_init() -> None:
    """The script runs as the user that was asked for, and its status is printed."""
    lines = rootfs.init_lines(rootfs.Job("true", 1000, {"A": "x y"}))
    run = next(line for line in lines if line.startswith("chroot"))
    assert "setpriv --reuid=1000 --regid=1000 --clear-groups /bin/sh" in run
    assert "'A=x y'" in run
    assert lines[-1] == f'echo "{rootfs.STATUS} $status"'
    assert not any("setpriv" in line for line in rootfs.init_lines(rootfs.Job("true")))


def test_share_is_filled(tmp_path: Path) -> None:
    """The script, the command, the checkout and more files are in the shared directory."""
    rootfs.fill_share(tmp_path, rootfs.Job("mminspect scan"), {"more": "text"})
    assert (tmp_path / rootfs.SCRIPT).read_text().endswith("mminspect scan\n")
    assert (tmp_path / "bin" / "mminspect").stat().st_mode & 0o111
    assert (tmp_path / "more").read_text() == "text"
    assert (tmp_path / "checkout" / "mminspect" / "signals.py").exists()


def test_qemu_arguments(tmp_path: Path) -> None:
    """The root is shared read-only, and later arguments win."""
    live = LiveGuest(KERNEL, rootfs.Job(""), qemu_args=("-smp", "2"), append="lockdown=confidentiality")
    guest = guest_of(live, Path("/initrd"), tmp_path / "a,b")
    shared = [word for word in guest.qemu_args if word.startswith("local,")]
    assert "readonly=on" in shared[0] and "path=/," in shared[0]
    assert "a,,b" in shared[1] and "readonly" not in shared[1]
    assert guest.qemu_args[-2:] == ("-smp", "2")


def test_unknown_kernel() -> None:
    """A kernel that isn't known is one line."""
    with pytest.raises(HarnessError, match=r"no kernel 2\.6"):
        find_kernel("2.6")
    result = CliRunner().invoke(main, ["fetch", "2.6"])
    assert result.exit_code == 2
    assert result.output.startswith("error: no kernel 2.6")


def test_list() -> None:
    """Kernels and layouts are listed."""
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 0
    assert "kernel 6.12" in result.output and "layout numa" in result.output
