# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect watch``: a line for each scan, with its time, whether or not something changed."""

from __future__ import annotations

import re

from tests.conftest import Cli, Unpacked
from tests.kit.support import I386_HOLE


def test_quiet_scan_is_a_line_with_its_time(cli: Cli, unpacked: Unpacked) -> None:
    path = unpacked(I386_HOLE)
    findings = len(cli("scan", path, "--format", "json").json()["findings"])
    done = cli("-c", path, "watch", "--count", "2", "--interval", "1s")
    assert done.status == 0
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}"
    heads = re.findall(rf"^{stamp} (.*)$", done.out, re.MULTILINE)
    assert heads == [f"{findings} new; findings: {findings}", f"nothing new, nothing gone; findings: {findings}"]
    assert re.fullmatch(rf"{stamp} nothing new, .*", done.out.splitlines()[-1])
