# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put mistakes into a copy of the source, one at a time, and run the tests that come past."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from contrib.mutate.covering import ROOT
from contrib.mutate.mistakes import Mistake, mistakes, parses

# The core: what decides on answers. Options, colors and the like are left out.
CORE = tuple(
    f"mminspect/{name}"
    for name in (
        *("commands", "consequences", "helpers", "kernel", "layout", "memmap", "memorymap", "program", "rules"),
        *("typeinfo", "walk"),
    )
)
COPIED = ("mminspect", "tests", "contrib", "docs", "pyproject.toml", "setup.py", "README.md", "CHANGELOG.md")
# Tests for one mistake: at most so many, and so many seconds of them by the map.
MAX_TESTS = 600
MAX_SECONDS = 120.0
# pytest's exit status for names of tests that it doesn't find, and for a mistake that keeps it from starting.
BAD_USAGE = 4
KILLED, SURVIVED, UNCOVERED = "killed", "survived", "uncovered"


class CoverageMap:
    """
    Which tests come past a line.

    :param file: What :mod:`contrib.mutate.covering` wrote. The source may have changed since.
    """

    def __init__(self, file: Path) -> None:
        data = json.loads(file.read_text(encoding="utf-8"))
        self._tests: list[str] = data["tests"]
        self._seconds: list[float] = data["seconds"]
        self._files: dict[str, Any] = data["files"]

    def tests(self, mistake: Mistake, source: str) -> list[str]:
        """Return the tests to run for a mistake: those named after the file first, then the fastest."""
        known = self._files.get(mistake.file)
        if known is None:
            return []
        old_line = _old_lines(known["source"], source)
        lines: dict[str, list[int]] = known["lines"]
        found: set[int] = set()
        for line in mistake.lines:
            found.update(lines.get(str(old_line.get(line)), ()))
        if not found:
            # At the top of a file, what runs is the import.
            found.update(test for covering in lines.values() for test in covering)
        stem = f"test_{Path(mistake.file).stem}.py"
        ordered = sorted(found, key=lambda test: (stem not in self._tests[test], self._seconds[test], test))
        chosen, seconds = [], 0.0
        for test in ordered[:MAX_TESTS]:
            seconds += self._seconds[test]
            if seconds > MAX_SECONDS and chosen:
                break
            chosen.append(self._tests[test])
        return chosen


def _old_lines(old: str, new: str) -> dict[int, int]:
    """Return the number that each line had before a file changed."""
    matcher = difflib.SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False)
    return {
        block.b + step + 1: block.a + step + 1 for block in matcher.get_matching_blocks() for step in range(block.size)
    }


@dataclass(frozen=True)
class Result:
    """
    What became of a mistake.

    :ivar outcome: ``killed``, ``survived``, or ``uncovered`` if no test comes past.
    :ivar by: The first test that failed.
    :ivar tests: How many were to run.
    """

    mistake: Mistake
    outcome: str
    by: str
    tests: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Get it as a line of a file of results."""
        code = (ROOT / self.mistake.file).read_text(encoding="utf-8").splitlines()[self.mistake.line - 1].strip()
        return {
            "id": self.mistake.id,
            "kind": self.mistake.kind,
            "code": code,
            "outcome": self.outcome,
            "by": self.by,
            "tests": self.tests,
            "seconds": round(self.seconds, 1),
        }


class Bench:
    """A copy of the source that mistakes are put into."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in COPIED:
            there = ROOT / name
            if there.is_dir():
                shutil.copytree(there, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(there, directory / name)
        (directory / "fixtures").symlink_to(ROOT / "fixtures")

    def try_(self, mistake: Mistake, tests: Sequence[str]) -> Result:
        """Put a mistake in, run tests until one fails, and take it out again."""
        source = (ROOT / mistake.file).read_text(encoding="utf-8")
        if not tests:
            return Result(mistake, UNCOVERED, "", 0, 0.0)
        began = time.monotonic()
        with self._with(mistake, source):
            failed = self._first_failure(tests)
        return Result(mistake, KILLED if failed else SURVIVED, failed, len(tests), time.monotonic() - began)

    @contextlib.contextmanager
    def _with(self, mistake: Mistake, source: str) -> Iterator[None]:
        path = self._directory / mistake.file
        path.write_text(mistake.apply(source), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(source, encoding="utf-8")

    def _first_failure(self, tests: Sequence[str]) -> str:
        """Return the first test that fails, in words if it is none; empty if all pass."""
        names = self._directory / "tests.txt"
        names.write_text("\n".join(tests), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
        command += ["-rfE", "-o", "addopts=", "--hypothesis-seed=0", f"@{names}"]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command,
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=5 * MAX_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "it never ends"
        if done.returncode == 0:
            return ""
        if done.returncode == BAD_USAGE and "file or directory not found" in done.stderr:
            raise click.ClickException(done.stderr.strip().splitlines()[0])
        lines = (line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR ")))
        return next((line.split(" ", 1)[1].split(" - ")[0] for line in lines), f"pytest ended with {done.returncode}")


def choose(seed: int, count: int, folders: Sequence[str] = CORE) -> list[Mistake]:
    """
    Choose mistakes at random: each line of code is as likely as any other.

    :param folders: Files or folders, from the root of the repository.
    """
    by_line: dict[tuple[str, int], list[Mistake]] = {}
    sources: dict[str, str] = {}
    for folder in sorted(folders):
        there = ROOT / folder
        for path in sorted(there.rglob("*.py")) if there.is_dir() else [there]:
            name = str(path.relative_to(ROOT))
            sources[name] = path.read_text(encoding="utf-8")
            for mistake in mistakes(name, sources[name]):
                by_line.setdefault((name, mistake.line), []).append(mistake)
    chance = random.Random(seed)
    places = list(by_line)
    chance.shuffle(places)
    # To see whether a mistake can be read takes far longer than to make it, so only those of chosen lines are.
    readable = ([m for m in by_line[place] if parses(m.apply(sources[m.file]))] for place in places)
    return [chance.choice(found) for found in itertools.islice(filter(None, readable), count)]


def run(chosen: Sequence[Mistake], coverage: CoverageMap, results: Path) -> Iterator[Result]:
    """
    Try mistakes, but for those that a file of results has.

    :param results: What is found is added to it.
    """
    done = {line["id"] for line in read_results(results)} if results.exists() else set()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        for mistake in chosen:
            if mistake.id in done:
                continue
            tests = coverage.tests(mistake, (ROOT / mistake.file).read_text(encoding="utf-8"))
            result = bench.try_(mistake, tests)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result.as_dict()) + "\n")
            yield result


def read_results(file: Path) -> list[dict[str, Any]]:
    """Read a file of results."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def known_mistakes(file: Path) -> list[tuple[Mistake, tuple[str, ...]]]:
    """
    Read mistakes that were made by hand, and the tests that must notice each.

    :raises ValueError: if the source no longer has the text of one, or has it more than once.
    """
    found = []
    for row in json.loads(file.read_text(encoding="utf-8")):
        source = (ROOT / row["file"]).read_text(encoding="utf-8")
        if source.count(row["old"]) != 1:
            raise ValueError(f"{row['file']} has this {source.count(row['old'])} times: {row['old']}")
        start = source.index(row["old"])
        line = source.count("\n", 0, start) + 1
        end = start + len(row["old"])
        mistake = Mistake(row["file"], line, 0, (line,), start, end, row["old"], row["new"], row["what"])
        found.append((mistake, tuple(row["tests"])))
    return found
