# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a fleet by Dask: a task a file, a few ahead on each worker, so that nothing grows with the number of files."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import escape, iglob
from typing import Any, Callable

from mminspect.errors import MminspectError
from mminspect.fleet import task
from mminspect.fleet.rows import FAILED, FILE, SKIPPED
from mminspect.fleet.sources import Source
from mminspect.fleet.store import Store
from mminspect.fleet.task import Limits, identify, read_file
from mminspect.program.text import one_line
from mminspect.render.table import plural

# Files whose content is identified by one task.
BATCH = 32
# Tasks that wait at a worker while it has one in hand.
AHEAD = 2
# Seconds between two looks at how many workers there are.
ASK_EVERY = 2.0
# Settings of Dask: what measures its own event loops fifty times a second, and profiles its workers, isn't needed.
QUIET = {
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.profile.enabled": False,
}
# Temporary folders of runs, and the seconds after which one that no process holds was left behind.
PREFIX = "mminspect-fleet-run-"
LEFT_AFTER = 60.0
# How often Dask may lose a file with its worker before it is recorded so.
LOST = 2


def needed(name: str) -> Any:
    """
    Import what only fleets need.

    :raises MminspectError: if it isn't installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = "Dask" if name == "distributed" else "DuckDB"
        raise MminspectError(f"{package} is not installed; install it with: pip install 'mminspect[fleet]'") from None


class Progress:
    """
    How far a run is.

    :ivar counts: Files by status, and those that were ``done`` before.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.counts: Counter[str] = Counter()
        self._start = time.monotonic()

    def line(self) -> str:
        """Say it in a line."""
        now = sum(number for status, number in self.counts.items() if status != "done")
        rate = now / max(time.monotonic() - self._start, 1e-3)
        parts = [plural(now, "file"), *(f"{self.counts[key]:,} {key}" for key in (FAILED, SKIPPED) if self.counts[key])]
        if self.counts["same"]:
            parts.append(f"{self.counts['same']:,} the same as others")
        if self.counts["done"]:
            parts.append(f"{self.counts['done']:,} done before")
        parts.append(f"{rate:.1f} files/s")
        if self.total is not None and now:
            left = max(0, self.total - now - self.counts["done"]) / rate
            parts.append(f"about {left:,.0f} s left" if left < 600 else f"about {left / 60:,.0f} min left")
        return ", ".join(parts)


def _temporary_folder(stack: contextlib.ExitStack) -> str:
    """
    Make a temporary folder for a run, and remove those of runs that were killed.

    :param stack: Removes it when it is closed.
    """
    for path in iglob(os.path.join(escape(tempfile.gettempdir()), f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                found = os.fstat(fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if found.st_uid == os.geteuid() and time.time() - found.st_ctime > LEFT_AFTER:
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)
    folder = tempfile.mkdtemp(prefix=PREFIX)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, held)
    fcntl.flock(held, fcntl.LOCK_EX)
    return folder


class Cluster:
    """
    Workers of Dask: some on this machine, or those of a scheduler that is there.

    :param workers: Processes to start here.
    :param scheduler: Address of a scheduler to use instead.
    :raises MminspectError: if Dask isn't installed, or the scheduler doesn't answer.
    """

    def __init__(self, workers: int, scheduler: str | None, dashboard: str | None) -> None:
        distributed = needed("distributed")
        # What goes wrong is said here, in a line.
        logging.disable(logging.CRITICAL)
        self._distributed = distributed
        self._gone = (distributed.comm.CommClosedError, distributed.client.CancelledError)
        self._stack = contextlib.ExitStack()
        self._cluster: Any = None
        self._workers = 0
        self._asked = -ASK_EVERY
        try:
            folder = _temporary_folder(self._stack)
            importlib.import_module("dask").config.set({**QUIET, "temporary-directory": folder})
            if scheduler is None:
                # What is started inherits it; workers that come later ignore them as soon as they can.
                with task.ignored():
                    self._cluster = distributed.LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        processes=True,
                        host="127.0.0.1",
                        env={"TMPDIR": folder},
                        preload=task.__name__,
                        dashboard_address=dashboard,
                        # Or it would listen at its usual port.
                        scheduler_kwargs={} if dashboard else {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                        silence_logs=logging.CRITICAL,
                        # The processes that read files have limits of their own.
                        memory_limit=0,
                    )
            else:
                # A client that can't be made says so on the terminal when it is collected.
                distributed.comm.registry.get_backend(distributed.comm.parse_address(scheduler)[0])
            self._client: Any = distributed.Client(scheduler or self._cluster, timeout="20s", set_as_default=False)
        except (OSError, ValueError, RuntimeError) as e:
            self._stack.close()
            where = scheduler or "this machine"
            raise MminspectError(f"no Dask scheduler at {where}: {one_line(str(e))}") from None

    @property
    def dashboard(self) -> str:
        """Address of Dask's dashboard."""
        return str(self._client.dashboard_link)

    def read(
        self, sources: Iterable[tuple[Source, str | None]], limits: Limits
    ) -> Iterator[tuple[Source, list[dict[str, Any]]]]:
        """
        Read files, in any order.

        :param sources: Each with its content, if that is known.
        :raises MminspectError: if the scheduler is gone.
        """
        tasks = ((source, (*source[:3], limits, content)) for source, content in sources)
        for source, rows in self._each(read_file, tasks):
            if isinstance(rows, Exception):
                # Whatever ended a worker, the others go on.
                error = one_line(f"lost with its worker, {LOST + 1} times: {type(rows).__name__}")
                rows = [{"row": FILE, "status": FAILED, "error": error}]
            yield source, rows

    def identify(self, sources: Sequence[Source]) -> Iterator[tuple[Source, str | None]]:
        """
        Get the contents of files, in any order.

        :raises MminspectError: if the scheduler is gone.
        """
        batches = [sources[at : at + BATCH] for at in range(0, len(sources), BATCH)]
        tasks = ((batch, ([source[:3] for source in batch],)) for batch in batches)
        for batch, contents in self._each(identify, tasks):
            yield from zip(batch, [None] * len(batch) if isinstance(contents, Exception) else contents)

    def _each(
        self, work: Callable[..., Any], tasks: Iterable[tuple[Any, tuple[Any, ...]]]
    ) -> Iterator[tuple[Any, Any]]:
        """Do work for each task, a few ahead on each worker: give what it is about, and the result or an exception."""
        completed = self._distributed.as_completed(loop=self._client.loop)
        waiting: dict[Any, Any] = {}
        for about, arguments in tasks:
            future = self._client.submit(work, *arguments, pure=False, retries=LOST)
            waiting[future] = about
            completed.add(future)
            while len(waiting) >= self._room():
                yield self._next(completed, waiting)
        while waiting:
            yield self._next(completed, waiting)

    def _room(self) -> int:
        # The scheduler is asked, which takes longer than all else that a task needs here.
        if time.monotonic() >= self._asked + ASK_EVERY:
            self._workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
            self._asked = time.monotonic()
        return AHEAD * max(1, self._workers)

    def _next(self, completed: Any, waiting: dict[Any, Any]) -> tuple[Any, Any]:
        future = next(completed)
        about = waiting.pop(future)
        gone = MminspectError("the Dask scheduler is gone; run the same command again to go on")
        if future.status in ("cancelled", "lost") or self._client.status != "running":
            raise gone
        try:
            result = future.result()
        except self._gone:
            raise gone from None
        except Exception as e:
            result = e
        future.release()
        return about, result

    def close(self) -> None:
        """End the workers that were started here."""
        with self._stack:
            self._client.close(timeout=5)
            if self._cluster is not None:
                self._cluster.close(timeout=10)


def plan(store: Store, sources: Iterable[Source], retry: bool) -> tuple[Progress, list[Source]]:
    """
    Find out which files are still to be read, and record those that are skipped.

    :param retry: Whether those that failed are read again.
    """
    sources = list(sources)
    progress = Progress(len(sources))
    to_read = []
    for source in sources:
        status = store.done.get(source.key)
        if status is not None and not (retry and status == FAILED):
            progress.counts["done"] += 1
        elif source.skipped is not None:
            store.add(source, [{"row": "file", "status": SKIPPED, "error": source.skipped}])
            progress.counts[SKIPPED] += 1
        else:
            to_read.append(source)
    return progress, to_read


def run(
    store: Store,
    sources: Sequence[Source],
    cluster: Cluster,
    limits: Limits,
    progress: Progress,
    tell: Callable[[Progress], None],
) -> None:
    """
    Read files, those of the same content once.

    :param tell: Called after each file.
    """
    sizes = Counter(source.size for source in sources)
    alike = [source for source in sources if sizes[source.size] > 1 or source.size in store.sizes]
    contents = {source: content for source, content in cluster.identify(alike) if content is not None}
    first: list[Source] = []
    later: list[Source] = []
    seen: set[str] = set()
    for source in sources:
        content = contents.get(source)
        again = content is not None and (content in seen or store.has(content))
        (later if again else first).append(source)
        if content is not None:
            seen.add(content)
    _read(store, first, contents, cluster, limits, progress, tell)
    failed = []
    for source in later:
        if store.has(contents[source]):
            store.add_same(source, contents[source])
            progress.counts["same"] += 1
            tell(progress)
        else:
            failed.append(source)
    _read(store, failed, contents, cluster, limits, progress, tell)


def _read(
    store: Store,
    sources: Sequence[Source],
    contents: Mapping[Source, str],
    cluster: Cluster,
    limits: Limits,
    progress: Progress,
    tell: Callable[[Progress], None],
) -> None:
    for source, rows in cluster.read(((source, contents.get(source)) for source in sources), limits):
        store.add(source, rows)
        progress.counts[str(rows[-1]["status"])] += 1
        tell(progress)
