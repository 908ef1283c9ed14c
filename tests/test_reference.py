# SPDX-License-Identifier: LGPL-2.1-or-later
"""The analyzer agrees with the per-page reference on every stored vmcore."""

from __future__ import annotations

import pytest

from tests.conftest import Opened, Scanned
from tests.kit import reference
from tests.kit.reference_drgn import read_world
from tests.kit.support import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_scan_agrees_with_the_reference_page_by_page(name: str, opened: Opened, scanned: Scanned) -> None:
    """Every rule, severity, pfn and detail; and the number of pages looked at."""
    world = read_world(opened(name)[0].prog, reference.MACHINES[name])
    report = scanned(name)
    assert [reference.from_report(f) for f in report.findings] == reference.findings(world)
    assert report.summary["pages_examined"] == len(world.pages)
    blocks = {pfn >> world.machine.pageblock_order for pfn in world.pages}
    assert report.summary["pageblocks"] == len(blocks)
