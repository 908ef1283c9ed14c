# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect fleet run``."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import click

from mminspect import signals
from mminspect.cli import status
from mminspect.cli.output import echo, say
from mminspect.errors import Stopped
from mminspect.fleet.rows import FAILED
from mminspect.fleet.run import Cluster, Progress, needed, plan
from mminspect.fleet.run import run as run_fleet
from mminspect.fleet.show import write_parquet
from mminspect.fleet.sources import expand
from mminspect.fleet.store import Store
from mminspect.fleet.task import Limits
from mminspect.kernel.inputs import Inputs
from mminspect.program.privileges import find_user
from mminspect.walk.parallel import usable_cpus

# Seconds between lines of progress where there is no terminal, and where there is one.
LINE_EVERY = 60.0
SHOW_EVERY = 0.2


class Teller:
    """Tells how far a run is: a line that changes on a terminal, a line a minute elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._last = time.monotonic() if not self._is_terminal else 0.0

    def tell(self, progress: Progress) -> None:
        """Tell it, if it is time."""
        now = time.monotonic()
        if now - self._last >= (SHOW_EVERY if self._is_terminal else LINE_EVERY):
            self._last = now
            if self._is_terminal:
                click.echo(f"\r\033[K{progress.line()}", nl=False, err=True)
            else:
                echo(progress.line())

    def end(self, progress: Progress) -> None:
        """Tell it for the last time."""
        if self._is_terminal:
            click.echo("\r\033[K", nl=False, err=True)
        echo(progress.line())


def run(
    inputs: Inputs,
    sources: tuple[str, ...],
    out: str,
    workers: int | None,
    scheduler: str | None,
    timeout: float,
    memory: int,
    retry_failed: bool,
    dashboard: bool,
    user: str,
) -> int:
    """Read a fleet; return the exit status."""
    needed("duckdb")
    if scheduler == "":
        raise click.UsageError("--scheduler: an address is needed, for example tcp://host:8786")
    if os.geteuid() == 0:
        find_user(user)
    # The results may be in a folder that is read.
    results = os.path.join(os.path.realpath(out), "")
    named = [source for source in expand(sources) if not os.path.realpath(source.path).startswith(results)]
    store = Store(out)
    teller = Teller()
    progress, to_read = plan(store, named, retry_failed)
    count = min(workers or usable_cpus(), len(to_read))
    try:
        if to_read:
            with contextlib.closing(Cluster(count, scheduler, ":0" if dashboard else None)) as cluster:
                if dashboard:
                    echo(f"dashboard: {cluster.dashboard}")
                try:
                    run_fleet(store, to_read, cluster, Limits(timeout, memory, user), progress, teller.tell)
                except Stopped:
                    # It isn't raised again while the workers are ended.
                    signals.stopped()
                    raise
    except (Stopped, KeyboardInterrupt):
        say("stopped; run the same command again to go on")
        raise
    finally:
        store.close()
        if store.done:
            write_parquet(out)
    teller.end(progress)
    echo(f"results are in {out}; show them with: mminspect fleet show {out}")
    failed = sum(store.done.get(source.key) == FAILED for source in named)
    return status.FINDINGS if failed else 0
