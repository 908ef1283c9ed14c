# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure the pictures of small machines and of large ones in use."""

from __future__ import annotations

import contextlib
import lzma
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.busy import machine
from tests.benchmarks.measure import Table, best, command
from tests.kit.support import AMD64_NUMA, I386_HOLE, VMCORES

# GiB of the large ones; Debian's 6.12.
LARGE = (128, 1024)
ABOUT = (
    "The whole command, with one process: CPU seconds of `scan` and of `map`, and what `map` writes. The large "
    "machines are those of the table above."
)
HEADERS = ("vmcore", "scan s", "map s", "map x scan", "text", "JSON", "HTML", "memory of map")
FORMATS = ("text", "json", "html")


@contextlib.contextmanager
def _stored(name: str, directory: Path) -> Iterator[Path]:
    path = directory / name
    try:
        path.write_bytes(lzma.decompress((VMCORES / f"{name}.xz").read_bytes()))
        yield path
    finally:
        path.unlink(missing_ok=True)


def _cores(directory: Path) -> Iterator[tuple[str, contextlib.AbstractContextManager[Path]]]:
    for name in (I386_HOLE, AMD64_NUMA):
        yield name, _stored(name, directory)
    for gib in LARGE:
        yield f"6.12 in use, {gib} GiB", machine("6.12", gib, directory)


def compare_pictures(directory: Path, repeat: int) -> Table:
    """Measure pictures: what they take, and how large they are."""
    rows = []
    for name, core in _cores(directory):
        with core as path:
            scan = best(repeat, command(path, "scan", "--format", "json", "--fail-on", "never", "--jobs", "1"))
            runs = [best(repeat, command(path, "map", "--format", form, "--jobs", "1")) for form in FORMATS]
        took = runs[FORMATS.index("json")].cpu
        sizes = (f"{len(run.out.encode()) / 1000:,.1f} kB" for run in runs)
        rows.append(
            (
                *(name, f"{scan.cpu:.2f}", f"{took:.2f}", f"{took / scan.cpu:.2f}", *sizes),
                f"{max(run.rss for run in runs)} MiB",
            )
        )
    return Table("Pictures", ABOUT, HEADERS, rows)
