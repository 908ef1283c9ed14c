# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results as text."""

from __future__ import annotations

from pathlib import Path

from contrib.explore import coverage
from contrib.explore.describe import brief
from contrib.explore.kernel import Kernel
from contrib.explore.layout import dumps
from contrib.explore.outcome import Outcome
from contrib.explore.qemu import command
from contrib.explore.store import Store

CORPUS = Path(__file__).with_name("corpus.jsonl")


def kernel_name(kernel: Kernel) -> str:
    """Return what a store calls a kernel: release, digest, and what was poked."""
    pokes = "".join(f" {name}={data.hex()}" for name, data in kernel.pokes)
    return f"{kernel.name} {kernel.digest[:12]}{pokes}"


def outcome(result: Outcome) -> str:
    """Return what came of a layout."""
    where = f" in {result.where}" if result.where else ""
    lines = [
        f"boot: {result.boot}{where}; {result.boot_cpu:.2f} CPU seconds, scan {result.scan_cpu:.2f}, "
        f"{result.memory >> 20} MiB"
    ]
    for sighting in result.sightings:
        lines.append(f"{sighting.severity:<8} {sighting.count:>4}  {sighting.signature}")
        lines.append(f"{'':<14} {sighting.example}")
    lines += [f"log: {line}" for line in result.log]
    return "\n".join(lines)


def reached(store: Store, name: str, kernel: Kernel) -> str:
    """Return how much code of memory initialization was reached, and where most is left."""
    return coverage.table(coverage.by_function(kernel.symbols, store.blocks(name)))


def table(store: Store, name: str, kernel: Path) -> str:
    """Return the signatures of a kernel, with their minimal layouts."""
    layouts, cpu = store.cost(name)
    lines = [f"{name}: {layouts} layouts, {cpu / max(layouts, 1):.2f} CPU seconds each", ""]
    for signature in store.signatures(name):
        lines.append(f"{signature.severity:<8} {signature.layouts:>5}  {signature.signature}")
        if signature.severity == "note" and signature.minimal is None:
            continue
        lines.append(f"    {signature.example}")
        if signature.minimal is not None:
            confirmed = f"; {signature.confirmed}" if signature.confirmed else ""
            lines.append(f"    minimal, after {signature.boots} boots{confirmed}: {brief(signature.minimal)}")
            lines.append(f"    {dumps(signature.minimal)}")
            lines += [f"      {line}" for line in command(signature.minimal, kernel).splitlines()]
        lines.append("")
    return "\n".join(lines)
