# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A process that forks one for each file, and outlives whatever becomes of them.

A worker starts it once: ``python -m mminspect.fleet.server FOLDER``. It reads requests from stdin, a line of JSON each,
and answers on stdout likewise. Everything is imported when it forks, and it has one thread, so that forking is cheap
and safe. It ends when stdin does, with the process that it is waiting for, and takes its temporary folder along.

Of what a child found out, only the index of its kernel's types is kept for the next ones. They check it as a whole, so
that a child in the hands of a malicious file can only make them slower.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

from mminspect import signals
from mminspect.errors import MminspectError
from mminspect.fleet import examine
from mminspect.fleet.rows import checked
from mminspect.program import late
from mminspect.program.text import one_line
from mminspect.render.json_ import dumps
from mminspect.rules.registry import all_rules
from mminspect.typeinfo import btf_index
from mminspect.typeinfo.btf import HEADER_SIZE

# Bytes of an answer.
MAX_ANSWER = 4 << 20
PIECE = 1 << 16
PR_SET_PDEATHSIG = 1
# Kernels whose types are remembered, and the bytes of each: four times what the largest ones have.
MAX_HINTS = 32
MAX_HINT = 2 << 20


def serve(folder: str) -> None:
    """
    Answer requests until there are no more.

    :param folder: Where temporary files are made; it is removed at the end.
    """
    signals.quit_at_once()
    tempfile.tempdir = folder
    try:
        _serve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve() -> None:
    late.load()
    all_rules()
    # Nothing that is imported or examined may write an answer.
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    for line in sys.stdin:
        request = json.loads(line)
        out.write(dumps(answer(**request)) + "\n")
        out.flush()


def answer(path: str, size: int, timeout: float, memory: int, user: str) -> dict[str, Any]:
    """
    Examine a file in a process of its own.

    :param timeout: Seconds that it may take.
    :param memory: Bytes that it may take.
    :return: ``rows``, or how the process ended: ``ended``.
    """
    read, write = os.pipe()
    folder = tempfile.mkdtemp(prefix="mminspect-fleet-")
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            _child(write, path, size, timeout, memory, user, folder)
        finally:
            os._exit(1)
    os.close(write)
    try:
        data = _receive(read, begin + timeout)
    except EOFError:
        # The worker is gone.
        sys.exit()
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)
    took = {"seconds": round(time.monotonic() - begin, 3), "cpu": round(usage.ru_utime + usage.ru_stime, 3)}
    if data is None:
        return {"ended": f"took longer than {timeout:g} s", **took}
    text, _, hint = data.partition(b"\n")
    try:
        rows = checked(json.loads(text))
    except (ValueError, RecursionError):
        return {"ended": _how(status), **took}
    _remember(hint)
    return {"rows": rows, **took}


def _remember(hint: bytes) -> None:
    header, starts = hint[:HEADER_SIZE], hint[HEADER_SIZE:]
    if starts:
        btf_index.hints.pop(header, None)
        if len(btf_index.hints) >= MAX_HINTS:
            del btf_index.hints[next(iter(btf_index.hints))]
        btf_index.hints[header] = starts


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in signal.Signals.__members__.values() else str(number)
        return f"was ended by {name}"
    return f"ended with status {os.WEXITSTATUS(status)}"


def _receive(fd: int, deadline: float) -> bytes | None:
    """
    Get all that a process writes, ``None`` if it takes too long.

    :raises EOFError: if there is nobody left who would want it.
    """
    pieces = []
    left = MAX_ANSWER
    while left > 0:
        ready, _, _ = select.select([fd, 0], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        if fd not in ready:
            # The next request comes after the answer, so this is the end.
            raise EOFError
        piece = os.read(fd, min(PIECE, left))
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _child(write: int, path: str, size: int, timeout: float, memory: int, user: str, folder: str) -> None:
    """Examine a file, and write the rows."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    seconds = int(timeout) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    tempfile.tempdir = folder
    try:
        examine.confine(path, size, user)
        rows = examine.examine(path)
    except MemoryError:
        rows = [{"row": "file", "status": "failed", "error": f"needs more than {memory >> 20} MiB of memory"}]
    except MminspectError as e:
        rows = [{"row": "file", "status": "failed", "error": one_line(str(e))}]
    except Exception as e:
        rows = [{"row": "file", "status": "failed", "error": one_line(f"{type(e).__name__}: {e}")}]
    data = dumps(rows).encode() + b"\n"
    for header, starts in btf_index.computed.items():
        hint = header + starts.tobytes()
        if len(hint) <= MAX_HINT and len(data) + len(hint) < MAX_ANSWER:
            data += hint
            break
    while data:
        data = data[os.write(write, data) :]
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
