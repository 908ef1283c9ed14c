# SPDX-License-Identifier: LGPL-2.1-or-later
"""One case: a damaged file, a command line, and what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NoReturn

from mminspect.cli.run import run
from tests.fuzz.damage import Damage

# What each command line may take: bytes of memory, and CPU time beyond that of the whole file.
MAX_RSS_KB = 300 * 1024
TIMES, MORE_SECONDS = 2.0, 1.0
# How the lines end with which a capture says how large it is.
SIZES = (" bytes", " bytes before compression", "; compressed as .xz it is much smaller")
# What is said of a dump that is not whole.
NOT_WHOLE = ("truncated: ", "incomplete: ", "not whole")
# What ends a process that keeps no bounds.
MAX_CPU_SECONDS = 20
MAX_SECONDS = 120
MAX_ADDRESS_SPACE = 4 << 30
MAX_FILE_SIZE = 1 << 30
COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("scan", "--format", name) for name in ("table", "json", "ndjson", "csv", "prometheus", "html", "ktap")),
    ("scan", "-v"),
    ("scan", "--jobs", "2"),
    *(("zones", "--format", name) for name in ("table", "json")),
    *(("page", "PAGES", "--format", name) for name in ("table", "json")),
    *(("triage", "--format", name) for name in ("text", "json", "html")),
    *(("map", "--format", name) for name in ("table", "json", "html")),
    ("map", "PAGES"),
    ("diff", "CORE", "CORE"),
    ("triage",),
    ("capture", "-o", "OUTPUT"),
    ("watch", "--count", "1"),
)


@dataclass(frozen=True)
class Result:
    """
    What became of a command line.

    :ivar status: Exit status, negative for a signal.
    :ivar cpu: Seconds of CPU time, of its children too.
    :ivar rss_kb: Largest resident set.
    """

    status: int
    cpu: float
    rss_kb: int
    out: bytes
    err: str


def command_line(random: Random, core: Path, output: Path) -> list[str]:
    """Choose a command line."""
    command = random.choice(COMMANDS)
    # Each has its command at the same place.
    arguments = [*(("--sandbox", "auto") if command[0] == "diff" else ("-c", str(core))), *command]
    pages = random.choice(
        (
            *(
                "0",
                "1000",
                "0x1000-0x1010",
                "0x8000-0x8400",
                str(random.randrange(1 << 17)),
                hex(random.getrandbits(64)),
            ),
            *("0xffffea0000040000", "0xffff888000100000", "0xffffffff82000000"),
        )
    )
    return [
        {"OUTPUT": str(output), "PAGES": pages, "CORE": str(core)}.get(argument, argument) for argument in arguments
    ]


@contextlib.contextmanager
def damaged(path: Path, damage: Damage) -> Iterator[None]:
    """Damage a file, and mend it again."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        saved = []
        for offset, data in damage.writes:
            file.seek(offset)
            saved.append((offset, file.read(min(len(data), max(0, size - offset)))))
            file.seek(offset)
            file.write(data)
        end = size
        cut = b""
        if damage.size is not None:
            end = damage.size
            file.seek(end)
            cut = file.read(size - end)
            file.truncate(end)
        if damage.tail:
            file.seek(size if damage.size is None else end)
            file.write(damage.tail)
        file.flush()
        try:
            yield
        finally:
            file.seek(min(end, size))
            if cut:
                file.write(cut)
            for offset, data in reversed(saved):
                file.seek(offset)
                file.write(data)
            file.truncate(size)


def set_limits() -> None:
    """Give this process the limits of a case."""
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_SIZE, MAX_FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _child(arguments: Sequence[str], out: int, err: int, temporary: Path) -> NoReturn:
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        set_limits()
        tempfile.tempdir = str(temporary)
        try:
            run(tuple(arguments))
        except SystemExit as e:
            os._exit(e.code if isinstance(e.code, int) else 1)
    finally:
        os._exit(99)


def execute(arguments: Sequence[str], temporary: Path) -> Result:
    """Run the command line in a forked child, with limits."""
    with open(temporary / "out", "w+b") as out, open(temporary / "err", "w+b") as err:
        pid = os.fork()
        if pid == 0:
            _child(arguments, out.fileno(), err.fileno(), temporary)
        watch = os.pidfd_open(pid)
        if not select.select([watch], [], [], MAX_SECONDS)[0]:
            os.killpg(pid, signal.SIGKILL)
        os.close(watch)
        _, status, usage = os.wait4(pid, 0)
        with contextlib.suppress(ProcessLookupError):
            # Workers that outlived it.
            os.killpg(pid, signal.SIGKILL)
        out.seek(0)
        err.seek(0)
        code = os.waitstatus_to_exitcode(status)
        text = err.read(1 << 16).decode("utf-8", "replace")
        return Result(code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, out.read(64 << 20), text)


def faults(result: Result, arguments: Sequence[str], whole: Result) -> list[str]:
    """
    Say which bounds a result didn't keep.

    :param whole: The result of the undamaged file.
    """
    found = []
    if result.status not in (0, 1, 2):
        found.append(f"status {result.status}")
    if "please report it" in result.err or "Traceback" in result.err:
        found.append("words: " + result.err.strip().splitlines()[-1][:200])
    lines = result.err.splitlines()
    # A capture says its size before it is written, and after.
    sizes = [line for line in lines if line.endswith(SIZES) and not line.startswith("mminspect: ")]
    said = len(lines) - (len(sizes) if arguments[2] == "capture" else 0)
    # A dump that is not whole is read as far as it goes, and triage that prints a verdict can exit with 2.
    allowed = {int(result.status == 2)}
    if any(word in line for line in lines for word in NOT_WHOLE):
        allowed.add(1)
    if "triage" in arguments and result.out:
        allowed.add(0)
    if said not in allowed:
        found.append(f"{len(lines)} lines on stderr")
    limit = max(TIMES * whole.cpu, whole.cpu + MORE_SECONDS)
    if result.cpu > limit:
        found.append(f"time: {result.cpu:.2f} s of CPU, {limit:.2f} s are allowed")
    if result.rss_kb > max(MAX_RSS_KB, whole.rss_kb):
        found.append(f"memory: {result.rss_kb // 1024} MB")
    if result.status in (0, 1) and "json" in arguments:
        try:
            json.loads(result.out)
        except ValueError:
            found.append("stdout isn't JSON")
    return found
