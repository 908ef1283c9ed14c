# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the times of commands with those that another commit takes, in one run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from tests.benchmarks.measure import Run, Table, run_once
from tests.kit.support import ROOT

COMMANDS = {
    "zones": ("zones",),
    "scan": ("scan", "--format", "json", "--fail-on", "never", "--jobs", "1"),
    "scan, 2 jobs": ("scan", "--format", "json", "--fail-on", "never", "--jobs", "2"),
    "map": ("map", "--format", "json", "--jobs", "1"),
}
ABOUT = "Whole commands, by turns: user and system CPU seconds, the best of some runs."


def _run(*command: str, cwd: Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as e:
        lines = e.stderr.strip().splitlines() or ["it failed"]
        raise click.ClickException(f"{' '.join(command[:4])}: {lines[-1]}") from None


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Have mminspect as a commit has it for a while."""
    with tempfile.TemporaryDirectory(prefix="mminspect-") as temporary:
        # Everybody reads it, as what is installed.
        Path(temporary).chmod(0o755)
        tree = Path(temporary) / "tree"
        _run("git", "worktree", "add", "--detach", str(tree), commit, cwd=ROOT)
        try:
            # As users have it: compiled, where there is a compiler.
            installed = Path(temporary) / "installed"
            _run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(installed), ".", cwd=tree)
            yield installed
        finally:
            _run("git", "worktree", "remove", "--force", str(tree), cwd=ROOT)


def _turn(tree: Path, core: Path, words: tuple[str, ...]) -> Run:
    # The directory in which Python starts comes before what is installed.
    return run_once([sys.executable, "-m", "mminspect", "-c", str(core), *words], cwd=tree)


def compare_with(commit: str, cores: list[Path], repeat: int) -> Table:
    """
    Measure commands of this tree and of another commit.

    :param cores: Vmcores that they read.
    """
    rows = []
    with checked_out(commit) as tree:
        for core in cores:
            for name, words in COMMANDS.items():
                runs = [(_turn(tree, core, words), _turn(ROOT, core, words)) for _ in range(repeat)]
                before, now = (min(run.cpu for run in column) for column in zip(*runs))
                clock, clock_now = (min(run.wall for run in column) for column in zip(*runs))
                times = (f"{before:.2f}", f"{now:.2f}", f"{now / before:.2f}", f"{clock_now / clock:.2f}")
                rows.append((core.name, name, *times))
    headers = ("vmcore", "command", f"{commit} CPU s", "this CPU s", "ratio", "ratio by the clock")
    return Table(f"Against {commit}", ABOUT, headers, rows)
