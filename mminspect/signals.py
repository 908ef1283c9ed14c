# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals that end the program: one line, the right exit status, no files left."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any, Callable, NoReturn

from mminspect.errors import CutShortError, LostError, Stopped

# How a signal ends the program, and the exit status that a shell would give.
SIGNALS = {
    signal.SIGHUP: ("hung up", 129),
    signal.SIGINT: ("interrupted", 130),
    signal.SIGTERM: ("terminated", 143),
}

# Seconds after which Stopped is raised again, if it did not end the program.
AGAIN_AFTER = 0.5


def _handle(handler: Any) -> None:
    for number in SIGNALS:
        # nohup(1) has it ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def quit_at_once() -> None:
    """Let a signal end the program as long as there is nothing to clean up."""

    def leave(signum: int, frame: Any) -> NoReturn:
        message, status = SIGNALS[signal.Signals(signum)]
        os.write(2, f"mminspect: {message}\n".encode())
        os._exit(status)

    _handle(leave)


def raise_stopped() -> None:
    """Let a signal raise :class:`~mminspect.errors.Stopped`."""
    received: int | None = None

    def stop(signum: int, frame: Any) -> NoReturn:
        nonlocal received
        if signum != signal.SIGALRM:
            received = signum
        assert received is not None
        # drgn drops what is raised while it loads plugins or logs.
        signal.setitimer(signal.ITIMER_REAL, AGAIN_AFTER)
        raise Stopped(*SIGNALS[signal.Signals(received)])

    def unraisable(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, Stopped):
            sys.__unraisablehook__(dropped)

    sys.unraisablehook = unraisable
    signal.signal(signal.SIGALRM, stop)
    _handle(stop)


# The size that each open vmcore had at first, by descriptor.
_sizes: dict[int, int] = {}


def note_size(fd: int, size: int) -> Callable[[], object]:
    """
    Remember what size a file has that is read while :func:`quit_on_bus_error` is in force.

    :return: Forgets it.
    """
    _sizes[fd] = size
    return lambda: _sizes.pop(fd, None)


def _say_lost(signum: int) -> None:
    was_cut = any(os.fstat(fd).st_size < size for fd, size in _sizes.items())
    os.write(2, f"mminspect: {CutShortError() if was_cut else LostError()}\n".encode())
    os._exit(2)


def _say_too_long(signum: int) -> None:
    os.write(2, b"mminspect: the limit of CPU time is reached; --sandbox off lifts mminspect's own\n")
    os._exit(2)


# Kept, since the C library has their addresses only.
_BUS_ERROR_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)(_say_lost)
_CPU_LIMIT_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)(_say_too_long)


def quit_on_bus_error() -> None:
    """
    End the program on access to a part of a mapped file that is gone or that the disk can't read.

    A Python handler would run only after the access has succeeded, which is never.
    """
    ctypes.CDLL(None).signal(int(signal.SIGBUS), _BUS_ERROR_HANDLER)


def quit_on_cpu_limit() -> None:
    """End the program with one line when it has used all of its CPU time, even in the midst of C code."""
    ctypes.CDLL(None).signal(int(signal.SIGXCPU), _CPU_LIMIT_HANDLER)


def stopped() -> None:
    """Say that :class:`~mminspect.errors.Stopped` has arrived."""
    signal.setitimer(signal.ITIMER_REAL, 0)


class Stopper:
    """
    Ends a walk early when a signal comes. A second signal ends the program.

    :ivar status: The exit status for the signal, ``None`` if there was none.
    :ivar message: What it did.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.message = ""
        _handle(self._stop)

    def _stop(self, signum: int, frame: Any) -> None:
        self.message, self.status = SIGNALS[signal.Signals(signum)]
        raise_stopped()

    def __call__(self) -> bool:
        return self.status is not None
