# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: python -m contrib.mutate."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click

from contrib.mutate.covering import FILE, ROOT
from contrib.mutate.run import CORE, KILLED, Bench, CoverageMap, choose, known_mistakes, read_results, run
from contrib.mutate.same import is_same

KNOWN = Path(__file__).parent / "known.json"
FAST = "not vm and not slow and not fuzz"
EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
ANY_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Put mistakes into mminspect and see whether fast tests notice."""


@main.command("map", context_settings={"ignore_unknown_options": True})
@click.option("-o", "--output", type=ANY_FILE, required=True, help="Where to write the map.")
@click.argument("arguments", nargs=-1)
def map_(output: Path, arguments: tuple[str, ...]) -> None:
    """Run the fast tests once and write down which of them runs which lines. ARGUMENTS go to pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "contrib.mutate.covering"]
    command += ["-m", FAST, *(arguments or ("tests",))]
    subprocess.run(command, cwd=ROOT, env={**os.environ, FILE: str(output.absolute())}, check=False)


@main.command("run")
@click.option("--map", "map_file", type=EXISTING, required=True, help="What the command map wrote.")
@click.option("--seed", type=int, required=True, help="The same seed chooses the same mistakes in the same source.")
@click.option("--count", type=int, default=60, show_default=True, help="How many mistakes.")
@click.option("-o", "--output", type=ANY_FILE, required=True, help="Results; those that are there aren't tried again.")
@click.argument("folders", nargs=-1)
def run_(map_file: Path, seed: int, count: int, output: Path, folders: tuple[str, ...]) -> None:
    """Try mistakes in FOLDERS or files; in the core if none are named."""
    for result in run(choose(seed, count, folders or CORE), CoverageMap(map_file), output):
        click.echo(f"{result.outcome:10} {result.seconds:5.0f} s  {result.mistake.id}  {result.by}")


@main.command()
@click.argument("results", type=EXISTING)
def show(results: Path) -> None:
    """Show what became of the mistakes in a file of results, and all that no test noticed."""
    rows = read_results(results)
    left = [row for row in rows if row["outcome"] != KILLED]
    gaps = [row for row in left if not is_same(row)]
    for row in gaps:
        click.echo(f"{row['outcome']:10} {row['id']}\n{'':10} {row['code']}")
    count = Counter(row["outcome"] for row in rows)
    changing = len(rows) - len(left) + len(gaps)
    click.echo(f"{dict(count)}; {len(left) - len(gaps)} change no answer, {count[KILLED]} of {changing} are noticed")


@main.command()
@click.option("--only", default="", help="Only the mistakes whose file has this in its name.")
def known(only: str) -> None:
    """Try the mistakes that tests once missed. Exit status 1 if one is missed again."""
    missed = 0
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        for mistake, tests in known_mistakes(KNOWN):
            if only not in mistake.file:
                continue
            result = bench.try_(mistake, tests)
            missed += result.outcome != KILLED
            click.echo(f"{result.outcome:10} {result.seconds:5.0f} s  {mistake.file}: {mistake.kind}  {result.by}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
