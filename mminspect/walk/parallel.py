# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The walk over the memmap in several processes.

Each process is a fork with the open kernel: worker n of N takes every Nth unit of work, starting with the nth. drgn and
libkdumpfile read files with pread(), so no process moves another's position. Threads would wait for each other, because
drgn holds the interpreter's lock while it reads.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any, Callable, TypeVar

from mminspect.errors import LostError, MminspectError
from mminspect.signals import SIGNALS

# Items of a unit of work: with windows of a mapped memmap, 64 MiB.
UNIT = 2
# What a process sends after the results of a unit. Each result is a tuple of one.
UNIT_ENDS = ()
T = TypeVar("T")
R = TypeVar("R")


def usable_cpus() -> int:
    """Get the number of CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def units(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut items into units of work."""
    iterator = iter(items)
    while True:
        unit = list(islice(iterator, UNIT))
        if not unit:
            return
        yield unit


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Let no signal come between a process and the note of it: its handler raises wherever the program is."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Worker:
    """
    A process that takes every Nth unit of work. Signals must be blocked while it is started.

    :param work: Does one item and gets its results, which are sent one by one.
    :param items: All items; the same in every process.
    :param number: Which of the workers this is.
    :param jobs: How many there are.
    :param others: Read ends of workers that were started before, to be closed in this one.
    """

    def __init__(
        self, work: Callable[[T], Iterable[R]], items: Iterable[T], number: int, jobs: int, others: Sequence[Worker]
    ) -> None:
        read, write = os.pipe()
        try:
            self.pid = os.fork()
        except OSError:
            os.close(read)
            os.close(write)
            raise
        if self.pid == 0:
            self._child(work, items, number, jobs, write, [read, *(w.results.fileno() for w in others)])
        os.close(write)
        self.results: IO[bytes] = open(read, "rb")  # noqa: SIM115

    @staticmethod
    def _child(
        work: Callable[[T], Iterable[R]],
        items: Iterable[T],
        number: int,
        jobs: int,
        write: int,
        unneeded: Sequence[int],
    ) -> None:
        """Work until nothing is left, or until nobody reads the results; never return."""
        status = 1
        try:
            # What the terminal sends goes to all; the parent ends the others.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # The parent says what that means.
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for fd in unneeded:
                os.close(fd)
            with open(write, "wb") as out:
                try:
                    for index, unit in enumerate(units(items)):
                        if index % jobs == number:
                            for result in chain.from_iterable(map(work, unit)):
                                pickle.dump((result,), out, pickle.HIGHEST_PROTOCOL)
                            pickle.dump(UNIT_ENDS, out)
                            out.flush()
                except MminspectError as e:
                    pickle.dump(e, out)
                except MemoryError:
                    pickle.dump(MminspectError("out of memory in a worker process; use --jobs 1"), out)
                except BrokenPipeError:
                    raise
                except Exception as e:
                    pickle.dump(MminspectError(f"a worker process failed: {type(e).__name__}: {e}"), out)
            status = 0
        finally:
            os._exit(status)

    def unit(self) -> Iterator[Any]:
        """
        Get the results of this worker's next unit.

        :raises MminspectError: if it failed.
        """
        while True:
            message = self._receive()
            if message == UNIT_ENDS:
                return
            yield from message

    def _receive(self) -> Any:
        try:
            message: Any = pickle.load(self.results)
        except (EOFError, pickle.UnpicklingError):
            status = self._wait()
            if status == -signal.SIGBUS:
                raise LostError() from None
            why = f"killed by signal {-status}" if status < 0 else f"status {status}"
            raise MminspectError(f"a worker process ended unexpectedly ({why}); use --jobs 1") from None
        if isinstance(message, MminspectError):
            raise message
        return message

    def _wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """Make sure that it is gone."""
        self.results.close()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._wait()


@contextlib.contextmanager
def run(work: Callable[[T], Iterable[R]], items: Callable[[], Iterable[T]], jobs: int) -> Iterator[Iterator[R]]:
    """
    Do work in several processes. They start at once, and are gone at the end of the context.

    :param work: Does one item and gets its results; a pure function of it and of what was there before.
    :param items: Gets all items, the same at every call.
    :param jobs: Number of processes.
    :return: Iterator of results, in the order of the items, whatever the number of processes. It raises
        :class:`MminspectError` if a process fails.
    """
    workers: list[Worker] = []
    try:
        try:
            with _signals_wait():
                for number in range(jobs):
                    workers.append(Worker(work, items(), number, jobs, workers))
        except OSError as e:
            raise MminspectError(f"can't start {jobs} processes: {e.strerror or e}; use --jobs 1") from None
        yield chain.from_iterable(workers[index % jobs].unit() for index, _ in enumerate(units(items())))
    finally:
        with _signals_wait():
            for worker in workers:
                worker.end()
