# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real kernel, booted under QEMU, dumped, and scanned without any debuginfo."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from contrib.kernels.agree import compare
from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Source, cached, fetch, fetch_busybox
from contrib.kernels.matrix import find_row
from contrib.kernels.row import boot_row
from tests.conftest import Cli
from tests.kit.support import open_core


@pytest.mark.vm
@pytest.mark.parametrize("name", ["amd64-6.12", "amd64-6.12-kdump"])
def test_zones_of_a_booted_kernel_are_those_it_prints(name: str, cli: Cli, tmp_path: Path) -> None:
    for program in ("qemu-system-x86_64", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    row = find_row(name)
    assert isinstance(row.source, Source)
    try:
        kernel = cached(row.source) or fetch(row.source, debug=False)
        busybox = fetch_busybox(row.source.suite, row.source.arch)
    except HarnessError as e:
        pytest.skip(f"the kernel can't be had: {e}")
    booted = boot_row(row, tmp_path / "core", kernel, busybox)

    done = cli("-c", booted.core, "scan", "--format", "json", "--fail-on", "never")
    assert (done.status, done.err) == (0, "")
    report = done.json()
    assert report["target"]["types_from"] == "btf"
    assert report["target"]["release"] == kernel.release
    assert compare(report, booted.truth) == []
    assert report["summary"]["pages_unreadable"] == 0
    assert report["summary"]["by_rule"]["uninitialized"]["findings"] == 0

    # Its memmap is read by way of the kernel's page tables, and is what drgn reads by its own way through them.
    opened = open_core(booted.core)
    direct = opened.target.direct
    assert direct is not None
    size = opened.memory.layout.page.size
    for start, end, section in opened.memmap.windows():
        data = direct.read(section.mem_map + start * size, (end - start) * size)
        assert data is not None
        assert data.tobytes() == opened.prog.read(section.mem_map + start * size, (end - start) * size)

    # A capture of the dump gives the same report.
    assert cli("-c", booted.core, "capture", "-o", tmp_path / "small.gz").status == 0
    again = cli("-c", tmp_path / "small.gz", "scan", "--format", "json", "--fail-on", "never").json()
    assert again["findings"] == report["findings"]
    assert name != "amd64-6.12" or (tmp_path / "small.gz").stat().st_size < booted.core.stat().st_size // 20
