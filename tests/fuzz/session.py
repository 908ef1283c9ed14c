# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many cases, one after the other."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import mminspect
from tests.fuzz.case import Result, command_line, damaged, execute, faults
from tests.fuzz.damage import Damage, Damager
from tests.fuzz.inputs import Inputs, names

# Cases after which the record is written.
STEP = 100


def _import_everything() -> None:
    """Import what any command imports, so that a forked child needn't."""
    for module in pkgutil.walk_packages(mminspect.__path__, "mminspect."):
        if not module.name.endswith(("__main__", "drgn_plugin")):
            importlib.import_module(module.name)


def resume(record: Path, seed: int) -> int:
    """Get the number of the first case that a record lacks."""
    if not record.exists():
        return 0
    rows = (json.loads(line) for line in record.read_text().splitlines())
    return max((row["end"] for row in rows if row["seed"] == seed and "end" in row), default=0)


class Session:
    """
    Runs cases.

    :param folder: For temporary files.
    :param seed: Case N is the same for the same seed, whichever ran before.
    :param chosen: Inputs; all by default.
    """

    def __init__(self, folder: Path, seed: int, chosen: Sequence[str] | None = None) -> None:
        _import_everything()
        self._seed = seed
        self._names = list(chosen or names())
        self._inputs = Inputs(folder)
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        self._damagers: dict[str, Damager] = {}
        self._whole: dict[tuple[str, ...], Result] = {}

    def _case(self, number: int) -> tuple[str, list[str], Damage]:
        random = Random(f"{self._seed}/{number}")
        name = random.choice(self._names)
        path = self._inputs.path(name)
        if name not in self._damagers:
            self._damagers[name] = Damager(path)
        arguments = command_line(random, path, self._temporary / "output")
        return name, arguments, self._damagers[name].make(random)

    def _undamaged(self, name: str, arguments: Sequence[str]) -> Result:
        # The number of a page hardly matters to the time, but how many there are does, and whether they are online.
        one = arguments[2] == "page" and "-" not in arguments[3]
        key = (name, *(argument for index, argument in enumerate(arguments) if not one or index != 3))
        if key not in self._whole:
            # What it said isn't kept: forks of this process would have it, too.
            self._whole[key] = replace(execute(arguments, self._temporary), out=b"", err="")
        return self._whole[key]

    def case(self, number: int) -> tuple[dict[str, Any], Result]:
        """Run a case; get what it was and what was wrong, and its result."""
        name, arguments, damage = self._case(number)
        whole = self._undamaged(name, arguments)
        with damaged(self._inputs.path(name), damage):
            result = execute(arguments, self._temporary)
        wrong = faults(result, arguments, whole)
        return {"seed": self._seed, "case": number, "input": name, "args": arguments[2:], "wrong": wrong}, result

    def show(self, number: int, keep: Path | None) -> int:
        """Run one case and print all of it."""
        name, _, damage = self._case(number)
        if keep is not None:
            with damaged(self._inputs.path(name), damage):
                shutil.copyfile(self._inputs.path(name), keep)
        row, result = self.case(number)
        print(json.dumps(row))
        print(result.err, end="")
        print(f"status {result.status}, {result.cpu:.2f} s, {result.rss_kb // 1024} MB")
        return 1 if row["wrong"] else 0

    def run(self, first: int, count: int, record: Path | None) -> int:
        """Run cases and print how it went; return 1 if any was outside the bounds."""
        begin = time.monotonic()
        worst_cpu, worst_kb, wrong = 0.0, 0, 0
        statuses: dict[int, int] = {}
        for start in range(first, first + count, STEP):
            end = min(start + STEP, first + count)
            rows: list[dict[str, Any]] = []
            cpu, kb = 0.0, 0
            for number in range(start, end):
                row, result = self.case(number)
                statuses[result.status] = statuses.get(result.status, 0) + 1
                cpu, kb = max(cpu, result.cpu), max(kb, result.rss_kb)
                if row["wrong"]:
                    rows.append(row)
                    print(json.dumps(row), flush=True)
            wrong += len(rows)
            worst_cpu, worst_kb = max(worst_cpu, cpu), max(worst_kb, kb)
            rows.append({"seed": self._seed, "first": start, "end": end, "worst_cpu": round(cpu, 2), "worst_kb": kb})
            if record is not None:
                with record.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
        minutes = (time.monotonic() - begin) / 60
        print(
            f"{count} cases of seed {self._seed} from {first}: {count / minutes:.0f} a minute, {wrong} outside the "
            f"bounds; worst {worst_cpu:.2f} s of CPU, {worst_kb // 1024} MB; "
            f"statuses {dict(sorted(statuses.items()))}"
        )
        return 1 if wrong else 0
