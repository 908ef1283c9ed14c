# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a worker of Dask does: it has a file read by a child of its server process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mminspect.fleet.content import content_id, is_unchanged
from mminspect.fleet.rows import FAILED, FILE

# A child that ended without an answer is tried once more: the machine may have been short of memory.
TRIES = 2
# Seconds beyond a file's own time after which the server is given up.
PATIENCE = 30.0


# What a terminal sends to all processes. The client alone says what becomes of it, and ends the others.
OF_TERMINAL = (signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Ignore what a terminal sends; processes that are started meanwhile go on ignoring it."""
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in OF_TERMINAL]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def dask_setup(worker: object) -> None:
    """Prepare a worker that Dask starts with this module preloaded, as it is done on this machine."""
    for number in OF_TERMINAL:
        signal.signal(number, signal.SIG_IGN)


class Limits(NamedTuple):
    """
    What a file may take.

    :ivar timeout: Seconds.
    :ivar memory: Bytes.
    :ivar user: User that a child of root becomes.
    """

    timeout: float = 600.0
    memory: int = 4 << 30
    user: str = "nobody"


_server: subprocess.Popen[bytes] | None = None
# Of the server; it removes it unless it is killed.
_folder = ""
# A worker has one server, however many threads it has.
_one = threading.Lock()


def _running() -> subprocess.Popen[bytes]:
    global _server, _folder
    if _server is None or _server.poll() is not None:
        if _folder:
            shutil.rmtree(_folder, ignore_errors=True)
        _folder = tempfile.mkdtemp(prefix="mminspect-fleet-")
        command = [sys.executable, "-m", "mminspect.fleet.server", _folder]
        # No plugins, which take long to load, and nothing of a vmcore is sent anywhere.
        environment = {**os.environ, "DRGN_DISABLE_PLUGINS": "*", "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("DEBUGINFOD_URLS", None)
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        _server = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=null)
    return _server


def read_file(path: str, size: int, mtime_ns: int, limits: Limits, content: str | None = None) -> list[dict[str, Any]]:
    """
    Read a file.

    :param content: What :func:`content_id` gives, if it is known.
    :return: Its rows, the file's own at last.
    """
    with _one:
        content = content or content_id(path, size, mtime_ns)
        for _ in range(TRIES):
            answer = _ask({"path": path, "size": size, **limits._asdict()}, limits.timeout + PATIENCE)
            rows: list[dict[str, Any]] | None = answer.get("rows")
            if rows is None:
                continue
            # What is told of half of a file may be wrong. The next run finds it with another size.
            if not is_unchanged(path, size, mtime_ns):
                rows = _failed("it changed or went away while it was read")
            elif content is not None:
                rows[-1]["content"] = content
            rows[-1].update(seconds=answer["seconds"], cpu=answer["cpu"])
            return rows
        return _failed(f"the process that read it {answer['ended']}, twice")


def _failed(error: str) -> list[dict[str, Any]]:
    return [{"row": FILE, "status": FAILED, "error": error}]


def identify(files: Sequence[tuple[str, int, int]]) -> list[str | None]:
    """Get the contents of files, each a path, a size and the time of the last change."""
    return [content_id(*file) for file in files]


def _ask(request: dict[str, Any], patience: float) -> dict[str, Any]:
    server = _running()
    assert server.stdin is not None and server.stdout is not None
    try:
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        line = _line(server.stdout.fileno(), patience)
        answer: dict[str, Any] = json.loads(line)
        return answer
    except (OSError, ValueError):
        server.kill()
        server.wait()
        return {"ended": "was lost with its server"}


def _line(fd: int, patience: float) -> bytes:
    """Get a line, or as much of it as comes in time."""
    data = b""
    deadline = time.monotonic() + patience
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(fd, 1 << 20) if ready else b""
        if not piece:
            break
        data += piece
    return data
