# SPDX-License-Identifier: LGPL-2.1-or-later
"""Explore a kernel: try layouts, keep those that are of a new kind, shrink what they show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Callable

from contrib.explore.cpu import Cpu
from contrib.explore.draw import Seeded
from contrib.explore.features import features
from contrib.explore.generate import generate, generate_after_boot, mutate
from contrib.explore.judge import SEVERITIES, Sighting
from contrib.explore.layout import Layout, dumps, loads
from contrib.explore.shrink import MAX_BOOTS
from contrib.explore.store import Store
from contrib.explore.workers import Done, Pool, Spec, Task

# How often a layout is a mutant of a kept one.
MUTANTS = 0.35
MAX_KEPT = 500
Say = Callable[[str], None]


@dataclass
class Progress:
    """
    How far a campaign is.

    :ivar layouts: How many were tried.
    :ivar failures: How many the harness failed on.
    :ivar signatures: What was seen, with the number of layouts.
    :ivar cpu: CPU seconds of boots and scans.
    :ivar blocks: How many blocks of code of memory initialization were reached.
    """

    layouts: int = 0
    failures: int = 0
    signatures: dict[str, int] = field(default_factory=dict)
    cpu: float = 0.0
    blocks: int = 0
    start: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """Return it as a line."""
        minutes = max(time.monotonic() - self.start, 0.001) / 60
        each = self.cpu / max(self.layouts, 1)
        parts = [
            f"{self.layouts} layouts, {self.layouts / minutes:.0f} a minute, {each:.2f} CPU seconds each",
            f"{self.blocks} blocks of code",
            f"{len(self.signatures)} signatures",
            *([f"{self.failures} failures"] if self.failures else []),
        ]
        return ", ".join(parts)


class Campaign:
    """
    Tries layouts on a kernel.

    :param spec: The kernel.
    :param name: What the store calls it.
    :param cpu: Its architecture.
    :param store: Where results go.
    :param say: Prints a line.
    :param after_boot: Whether every layout has something that is done after boot.
    """

    def __init__(self, spec: Spec, name: str, cpu: Cpu, store: Store, say: Say, after_boot: bool = False) -> None:
        self.spec, self.name, self.cpu, self.store, self.say = spec, name, cpu, store, say
        self.after_boot = after_boot
        self.progress = Progress()
        self.kept: list[Layout] = []
        self.features: set[str] = set()
        for layout, _ in store.trials(name):
            self._keep(layout, False)
        self.blocks = store.blocks(name)
        self.progress.blocks = len(self.blocks)
        self.known = {signature.key for signature in store.signatures(name)}

    def _keep(self, layout: Layout, anyway: bool) -> None:
        new = features(layout) - self.features
        self.features |= new
        if (new or anyway) and not layout.after_boot and len(self.kept) < MAX_KEPT:
            self.kept.append(layout)

    def layouts(self, seed: int, count: int | None, seconds: float | None) -> Iterator[Task]:
        """Return new layouts until there are enough or time is up."""
        tried = self.store.seeds(self.name)
        end = None if seconds is None else time.monotonic() + seconds
        made = 0
        while (count is None or made < count) and (end is None or time.monotonic() < end):
            if seed not in tried:
                made += 1
                yield Task(dumps(self._layout(Seeded(seed))), seed)
            seed += 1

    def _layout(self, draw: Seeded) -> Layout:
        if self.after_boot:
            return generate_after_boot(draw, self.spec.modules is not None)
        if self.kept and draw.p(MUTANTS):
            return mutate(draw, draw.choice(self.kept), self.cpu)
        return generate(draw, self.cpu)

    def run(self, pool: Pool, seed: int, count: int | None, seconds: float | None) -> None:
        """Try layouts."""
        last = time.monotonic()
        for done in pool.run(self.spec, self.layouts(seed, count, seconds)):
            self._take(done)
            if time.monotonic() - last > 10:
                last = time.monotonic()
                self.say(self.progress.line())
        self.say(self.progress.line())

    def _take(self, done: Done) -> None:
        layout, outcome = loads(done.task.layout), done.outcome
        if outcome is None:
            self.progress.failures += "needs RAM" not in done.error
            self.say(f"seed {done.task.seed}: {done.error}")
            return
        self.store.add(self.name, layout, outcome, done.task.seed)
        progress = self.progress
        progress.layouts += 1
        progress.cpu += outcome.boot_cpu + outcome.scan_cpu
        new = [sighting for sighting in outcome.sightings if sighting.key not in self.known]
        for sighting in outcome.sightings:
            progress.signatures[sighting.key] = progress.signatures.get(sighting.key, 0) + 1
        for sighting in new:
            self.known.add(sighting.key)
            self.say(f"layout {progress.layouts}, seed {done.task.seed}: new: {sighting.key}")
        blocks = set(outcome.blocks) - self.blocks
        self.store.add_blocks(self.name, blocks)
        self.blocks |= blocks
        progress.blocks = len(self.blocks)
        self._keep(layout, bool(new or blocks))

    def shrink(self, pool: Pool, least: str, most: int = MAX_BOOTS) -> None:
        """Shrink what was seen at or above a severity and has no minimal layout yet."""
        wanted = [
            signature
            for signature in self.store.signatures(self.name)
            if signature.minimal is None and SEVERITIES.index(signature.severity) >= SEVERITIES.index(least)
        ]
        tasks = iter([Task(dumps(signature.simplest), None, signature.key, most) for signature in wanted])
        by_key = {signature.key: signature for signature in wanted}
        for done in pool.run(self.spec, tasks):
            signature = by_key[done.task.wanted or ""]
            if done.shrunk is None:
                self.say(f"not shrunk: {signature.key}: {done.error}")
                continue
            key = Sighting(signature.severity, signature.signature, signature.layouts, signature.example)
            self.store.set_minimal(self.name, key, loads(done.shrunk), done.boots)
            self.say(f"shrunk in {done.boots} boots: {signature.key}")
