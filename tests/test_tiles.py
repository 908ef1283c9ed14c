# SPDX-License-Identifier: LGPL-2.1-or-later
"""Large machines made of recorded guests: the benchmarks' input must be as right as what was recorded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from contrib.kernels.errors import HarnessError
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import open_kernel
from mminspect.rules.registry import select_rules
from mminspect.walk.engine import Scan
from tests.benchmarks.recording import KERNELS, record
from tests.benchmarks.tiles import CPUS, Image, tile


def test_what_is_written_over_memory_is_read_back() -> None:
    image = Image()
    image.write(0x1000, b"abcdef")
    image.write(0x1010, b"xyz")
    image.write(0x1004, b"0123456789ABCDE")
    image.write(0x2000, b"!")
    assert list(image.pieces()) == [(0x1000, bytearray(b"abcd0123456789ABCDE")), (0x2000, bytearray(b"!"))]


@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.parametrize("version", KERNELS)
def test_a_tiled_guest_has_the_findings_of_its_recording_and_no_other(version: str, tmp_path: Path) -> None:
    try:
        recording = record(version, tmp_path)
    except HarnessError as error:
        pytest.skip(str(error))
    large = tmp_path / "large"
    tile(recording, large, 16)
    found = []
    for path in (recording, large):
        with open_kernel(Inputs(str(path))) as kernel:
            memory = kernel.memory_with_lists
            scan = Scan(memory, kernel.memmap, select_rules(), kernel.identify)
            findings = Counter((item.rule, item.severity, item.start_pfn, item.end_pfn) for item in scan.findings())
            pages = {(z.node, z.index): z.present for z in memory.populated_zones}
            on_lists = Counter[tuple[int, int]]()
            for item in memory.per_cpu or ():
                on_lists[item.node, item.zone] += item.count
                assert all(one.complete and not one.faults for one in item.lists)
            found.append((findings, pages, on_lists, len({item.cpu for item in memory.per_cpu or ()})))
    (findings, pages, lists, _), (tiled, tiled_pages, tiled_lists, cpus) = found
    assert tiled == findings
    assert cpus == CPUS
    # 4 GiB to 10 GiB are six copies of node 0's zone Normal, 10 GiB to 16 GiB three of node 1's.
    for zone, copies in (((0, 0), 1), ((0, 1), 1), ((0, 2), 6), ((1, 2), 3)):
        assert tiled_pages[zone] == copies * pages[zone]
        assert tiled_lists[zone] == copies * lists[zone]
