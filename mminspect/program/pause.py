# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest that stands still while it is read.

A process of its own stops it, and lets it run again as soon as whoever reads it is done or gone, however it went. It
does nothing else, has no capabilities, and signals that end a program do nothing to it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from mminspect.errors import TargetError
from mminspect.program import privileges
from mminspect.program.qmp import Qmp

# Seconds that a guest stands still at most.
MAX_SECONDS = 120.0
# Seconds until the other process must have answered: longer than QEMU may take for a few commands.
ANSWER_SECONDS = 60.0
RUNNING = "running"
_ASK = b"?"
_STILL, _RESUMED, _TOO_LONG, _FAILED = b"s", b"r", b"t", b"!"
_MAX_ANSWER = 1024
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGALRM)


class Pause:
    """
    Stops a guest, unless it doesn't run anyway.

    :param path: Name of the socket for messages.
    :param qmp: The connection; it goes to the other process.
    :param limit: Seconds after which the guest runs again in any case.
    :raises TargetError: if it can't be stopped.
    """

    def __init__(self, path: str, qmp: Qmp, limit: float = MAX_SECONDS) -> None:
        self._path = path
        self._limit = limit
        self._socket, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            self._run(qmp, others, reader, limit)
        others.close()
        qmp.close()
        answer = self._receive()
        if answer != _STILL:
            self.end()
            why = answer[1:].decode("utf-8", "replace") if answer[:1] == _FAILED else "its watchdog ended"
            raise TargetError(f"{path}: the guest can't be stopped: {why}")

    def _receive(self) -> bytes:
        # A reader without rights has no calls for sockets.
        try:
            ready, _, _ = select.select([self._socket], [], [], ANSWER_SECONDS)
            return os.read(self._socket.fileno(), _MAX_ANSWER) if ready else b""
        except OSError:
            return b""

    def check(self) -> None:
        """
        See that the guest stood still all the time.

        :raises TargetError: if it didn't.
        """
        with contextlib.suppress(OSError):
            os.write(self._socket.fileno(), _ASK)
        answer = self._receive()
        if answer == _STILL:
            return
        if answer == _TOO_LONG:
            why = f"it was resumed after {self._limit:.0f} s, before it was read; scan it without --stop"
        elif answer == _RESUMED:
            why = "somebody else resumed it; scan it again"
        else:
            why = "what resumes it has ended; see that it runs, and scan it again"
        raise TargetError(f"{self._path}: the guest did not stand still while it was read: {why}")

    def end(self) -> None:
        """Let the guest run again, if it ran before."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        with contextlib.suppress(OSError):
            os.waitpid(self._child, 0)

    @staticmethod
    def _run(qmp: Qmp, others: socket.socket, reader: int, limit: float) -> None:
        """Be the other process."""
        try:
            for ignored in _IGNORED:
                signal.signal(ignored, signal.SIG_IGN)
            os.setsid()
            kept = sorted((qmp.fileno(), others.fileno()))
            # Descriptors up to 2 stay, since what is opened later must not get their numbers.
            for low, high in zip([2, *kept], [*kept, os.sysconf("SC_OPEN_MAX")]):
                os.closerange(low + 1, high)
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write("-1000")
            privileges.drop_capabilities()
            # Processes that the reader starts have its end of the socket, too, and may outlive it.
            gone = os.pidfd_open(reader)
            if os.getppid() == reader:
                _keep(qmp, others, gone, limit)
        finally:
            os._exit(0)


def _keep(qmp: Qmp, others: socket.socket, gone: int, limit: float) -> None:
    """
    Stop the guest, answer questions, and let it run again.

    :param gone: Can be read when the reader has ended.
    """
    stopped = False
    try:
        ran = qmp.status() == RUNNING
        if ran:
            stopped = True
            qmp.execute("stop")
        qmp.drain()
        qmp.resumed = 0
        others.send(_STILL)
        deadline = time.monotonic() + limit
        state = _STILL
        while True:
            left = deadline - time.monotonic() if state == _STILL else None
            fds = [others.fileno(), qmp.fileno(), gone]
            ready, _, _ = select.select(fds, [], [], None if left is None else max(left, 0))
            if qmp.fileno() in ready:
                if not qmp.drain():
                    return
                if qmp.resumed and state == _STILL:
                    state, stopped = _RESUMED, False
            if not ready and state == _STILL:
                state = _TOO_LONG
                if stopped:
                    stopped = False
                    qmp.execute("cont")
            asked = others.fileno() in ready
            if gone in ready or (asked and not others.recv(_MAX_ANSWER)):
                return
            if asked:
                others.send(state)
    except (TargetError, OSError) as e:
        with contextlib.suppress(OSError):
            others.send(_FAILED + str(e).encode("utf-8", "replace")[: _MAX_ANSWER - 1])
    finally:
        if stopped:
            with contextlib.suppress(TargetError, OSError):
                qmp.execute("cont")
