# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Confirm a signature before it is reported: again by direct boot, then with QEMU's firmware and boot loader.

A signature that firmware doesn't confirm is marked, not dropped: timing and the place of things differ.
"""

from __future__ import annotations

from pathlib import Path

from contrib.explore.layout import Layout
from contrib.explore.outcome import Explorer
from contrib.explore.qemu import stock, why_not

REPEATS = 2


def repeats(explorer: Explorer, layout: Layout, key: str, times: int = REPEATS) -> int:
    """Return how often a layout gives a signature."""
    return sum(key in explorer.run(layout).keys for _ in range(times))


def confirm(explorer: Explorer, layout: Layout, key: str, kernel: Path) -> str:
    """
    Return what confirmation says of a signature.

    :param key: Severity and signature.
    :param kernel: The bzImage.
    """
    seen = repeats(explorer, layout, key)
    text = f"direct boot {seen}/{REPEATS}"
    if explorer.kernel.pokes:
        return f"{text}; the kernel is patched"
    if layout.after_boot:
        return f"stock firmware {seen}/{REPEATS}"
    how = stock(layout, kernel)
    if how is None:
        return f"{text}; direct boot only: {why_not(layout)}"
    outcome = explorer.run(layout, how)
    if key in outcome.keys:
        return f"{text}; stock firmware: yes"
    others = len(outcome.keys)
    return f"{text}; stock firmware: no ({outcome.boot}, {others} other signatures)"
