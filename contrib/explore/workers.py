# SPDX-License-Identifier: LGPL-2.1-or-later
"""Try layouts in this process, or in several by Dask."""

from __future__ import annotations

import atexit
import importlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from contrib.explore.kernel import Kernel, open_kernel
from contrib.explore.layout import LayoutError, dumps, loads
from contrib.explore.outcome import Explorer, Outcome
from contrib.explore.shrink import Shrunk, shrink
from contrib.kernels.errors import HarnessError

# Tasks that wait at a worker while it has one in hand.
AHEAD = 2


@dataclass(frozen=True)
class Spec:
    """
    Which kernel: what a worker opens it by.

    :ivar path: A bzImage or vmlinux, there on every worker.
    :ivar vmlinux: See :func:`contrib.explore.kernel.open_kernel`.
    :ivar system_map: As above.
    :ivar pokes: Bytes over functions, by symbol.
    :ivar modules: The directory of its modules.
    """

    path: str
    vmlinux: str | None = None
    system_map: str | None = None
    pokes: tuple[tuple[str, bytes], ...] = ()
    modules: str | None = None

    def open(self) -> Kernel:
        """Return the kernel."""
        vmlinux, system_map, modules = (
            Path(name) if name else None for name in (self.vmlinux, self.system_map, self.modules)
        )
        return replace(open_kernel(Path(self.path), vmlinux, system_map), pokes=self.pokes, modules=modules)


@dataclass(frozen=True)
class Task:
    """
    Something to do with a layout.

    :ivar layout: The layout as JSON.
    :ivar seed: What it was made of.
    :ivar wanted: Shrink it for this signature; else just try it.
    :ivar most: How many boots that may take.
    """

    layout: str
    seed: int | None = None
    wanted: str | None = None
    most: int = 0


@dataclass(frozen=True)
class Done:
    """
    A task that is done.

    :ivar outcome: What came of the layout.
    :ivar error: Why nothing came of it.
    :ivar shrunk: The minimal layout as JSON.
    :ivar boots: How many boots that took.
    """

    task: Task
    outcome: Outcome | None = None
    error: str = ""
    shrunk: str | None = None
    boots: int = 0


_explorers: dict[Spec, Explorer] = {}


def explorer(spec: Spec) -> Explorer:
    """Return the explorer of a kernel; each process has one."""
    if spec not in _explorers:
        _explorers[spec] = Explorer(spec.open())
        atexit.register(_explorers[spec].close)
    return _explorers[spec]


def shrink_for(one: Explorer, task: Task) -> Shrunk:
    """Shrink a layout for a signature."""

    def still(layout: Any) -> bool:
        try:
            return task.wanted in one.run(layout).keys
        except LayoutError:
            return False

    return shrink(loads(task.layout), still, task.most)


def perform(spec: Spec, task: Task) -> Done:
    """Do a task."""
    try:
        one = explorer(spec)
        if task.wanted is None:
            return Done(task, one.run(loads(task.layout)))
        result = shrink_for(one, task)
        return Done(task, shrunk=dumps(result.layout), boots=result.boots)
    except HarnessError as error:
        return Done(task, error=str(error))


class Pool(Protocol):
    """Does tasks."""

    def run(self, spec: Spec, tasks: Iterator[Task]) -> Iterator[Done]:
        """Do tasks; they are asked for as late as possible."""

    def close(self) -> None:
        """End all processes."""


class Here:
    """Does tasks in this process."""

    def run(self, spec: Spec, tasks: Iterator[Task]) -> Iterator[Done]:
        """Do tasks one by one."""
        for task in tasks:
            yield perform(spec, task)

    def close(self) -> None:
        """There is nothing to end."""


class Dask:
    """
    Does tasks on a Dask cluster.

    :param workers: Processes to start here.
    :param scheduler: Address of a scheduler to use instead.
    :raises HarnessError: if Dask isn't installed or the scheduler doesn't answer.
    """

    def __init__(self, workers: int, scheduler: str | None = None) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError:
            raise HarnessError(
                "Dask is not installed; install mminspect[explore], or use --workers 0 to do it in this process"
            ) from None
        logging.getLogger("distributed").setLevel(logging.ERROR)
        self._as_completed = distributed.as_completed
        self._cluster: Any = None
        try:
            if scheduler is None:
                self._cluster = distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                )
            self._client: Any = distributed.Client(scheduler or self._cluster, timeout="20s")
        except (OSError, ValueError) as error:
            raise HarnessError(f"no Dask scheduler at {scheduler}: {error}") from None
        if scheduler is not None:
            self._check(scheduler, distributed.TimeoutError)

    def _check(self, scheduler: str, timed_out: type[Exception]) -> None:
        """
        See whether the scheduler and a worker have this checkout.

        :raises HarnessError: if they have not.
        """
        try:
            self._client.submit(make_pool, 0, None, pure=False).result(timeout=60)
        except timed_out:
            raise HarnessError(f"no worker of the Dask scheduler at {scheduler} does anything") from None
        except Exception:
            raise HarnessError(
                f"the Dask scheduler at {scheduler} or its workers can't import contrib.explore; start all of them in "
                "the checkout, with PYTHONPATH=."
            ) from None

    def run(self, spec: Spec, tasks: Iterator[Task]) -> Iterator[Done]:
        """Do tasks, a few ahead on each worker."""
        room = AHEAD * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))
        waiting: dict[Any, Task] = {}
        completed = self._as_completed()
        for task in tasks:
            future = self._client.submit(perform, spec, task, pure=False, retries=1)
            waiting[future] = task
            completed.add(future)
            if len(waiting) >= room:
                yield self._next(completed, waiting)
        while waiting:
            yield self._next(completed, waiting)

    def _next(self, completed: Any, waiting: dict[Any, Task]) -> Done:
        future = next(completed)
        task = waiting.pop(future)
        try:
            done: Done = future.result()
        except Exception as error:  # whatever ended a worker, the others go on
            return Done(task, error=f"a worker failed: {type(error).__name__}: {error}")
        return done

    def close(self) -> None:
        """End the workers."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def make_pool(workers: int, scheduler: str | None) -> Pool:
    """Return a pool: of Dask, or in this process for no workers."""
    return Dask(workers, scheduler) if workers or scheduler else Here()
