# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure large machines in use, made of recordings (:mod:`tests.benchmarks.tiles`)."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Table, best, run_once, scan_command
from tests.benchmarks.recording import record
from tests.benchmarks.tiles import CPUS, tile

# What is measured: kernels, and GiB of memory.
MACHINES = (("6.1", 64), ("6.12", 64), ("7.2", 64), ("6.12", 1024))
# Ways that take the same per page whatever the size are measured on the smallest only.
SLOW = 64
ABOUT = (
    f"Recorded sections of busy guests, repeated, with per-CPU lists of {CPUS} CPUs. `read` is `prog.read()` of the "
    "memmap in pieces of 1 MiB, `loop` a drgn loop over the flags of some pages. The times of the walk, of the per-CPU "
    "lists and of the picture are CPU seconds without start-up; those with `job` are the whole command by the clock."
)
HEADERS = (
    *("kernel", "GiB", "M pages", "read s", "walk s", "x read", "lists s", "with lists x read"),
    *("with picture x walk", "x faster than the loop", "1 job s", "2 jobs s", "memory"),
)


@contextlib.contextmanager
def machine(kernel: str, gib: int, directory: Path) -> Iterator[Path]:
    """Have a capture of a large machine for a while; it takes 1/64 of the machine's memory."""
    out = directory / f"busy-{kernel}-{gib}g"
    try:
        tile(record(kernel, directory), out, gib)
        yield out
    finally:
        out.unlink(missing_ok=True)


def by_turns(core: Path, ways: tuple[str, ...], repeat: int) -> dict[str, dict[str, Any]]:
    """Go some ways through a vmcore, one after the other, so that what others do on the machine hits all alike."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(repeat):
        for way in ways:
            command = [sys.executable, "-m", "tests.benchmarks.peers", way, str(core)]
            runs[way].append(json.loads(run_once(command).out))
    return {way: min(results, key=lambda result: float(result["cpu"])) for way, results in runs.items()}


def compare_busy(directory: Path, repeat: int, machines: tuple[tuple[str, int], ...] = MACHINES) -> Table:
    """Measure large machines in use."""
    rows = []
    for kernel, gib in machines:
        with machine(kernel, gib, directory) as core:
            found = by_turns(core, ("plain-read", "scan", "lists", "picture"), repeat)
            slow = by_turns(core, ("page-by-pfn",), 1)["page-by-pfn"] if gib <= SLOW else None
            runs = [best(repeat, scan_command(core, jobs)) for jobs in (1, 2)]
        read, scan, lists, picture = (found[way]["cpu"] for way in ("plain-read", "scan", "lists", "picture"))
        pages = found["scan"]["pages"]
        loop = "" if slow is None else f"{slow['cpu'] / slow['pages'] / (scan / pages):.0f}"
        rows.append(
            (
                *(kernel, str(gib), f"{pages / 1e6:.1f}", f"{read:.3f}", f"{scan:.3f}", f"{scan / read:.2f}"),
                *(f"{lists:.3f}", f"{(scan + lists) / read:.2f}", f"{picture / scan:.2f}", loop),
                *(f"{run.wall:.2f}" for run in runs),
                f"{max(run.rss for run in runs)} MiB",
            )
        )
    return Table("Large machines in use", ABOUT, HEADERS, rows)
