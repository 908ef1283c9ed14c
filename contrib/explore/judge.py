# SPDX-License-Identifier: LGPL-2.1-or-later
"""
mminspect's judgment of a vmcore, as signatures. Nothing else here knows mminspect.

A server imports mminspect once and forks for each vmcore, which saves most of what a scan of a small guest takes. It is
a process of its own, with one thread, since whoever asks may have threads.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import resource
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from contrib.kernels.boot import dies_with_parent
from contrib.kernels.errors import HarnessError

SCAN_CPU_SECONDS = 60
SCAN_WALL_SECONDS = 240
ANSWER_SECONDS = SCAN_WALL_SECONDS + 30
SCAN_MEMORY = 4 << 30
# A report that is larger is of a memory map that is garbage.
MAX_REPORT = 256 << 20
# From harmless to worst.
OUTCOMES = ("safe", "refuses", "reads wrong", "BUG with CONFIG_DEBUG_VM", "writes outside", "faults")
SEVERITIES = ("note", "warning", "error")

ZONES = re.compile(r"(?:node \d+ zone (?:id \d+|\w+)(?:, | and )?)+")
HEX_OR_NUMBER = re.compile(r"0x[0-9a-f]+|\bpfn:[0-9a-f]+|\b[0-9a-f]{8,16}\b|\b\d[\d,]*(?:\.\d+)?\b|2\^\d+(?:-1)?")
PLURALS = re.compile(r"\b(page|struct|block|pageblock|entry|zone|list|count)s\b")
REPEATED = re.compile(r"(N)(?:, N)+")


def without_numbers(message: str) -> str:
    """
    Return a message with what differs from layout to layout left out.

    >>> without_numbers("2 pages linked to node 0 zone DMA, but node 1 zone DMA32 spans [0x1, 0x1000)")
    'N page linked to node n zone DMA, but node n zone DMA32 spans [N)'
    """

    def zones(match: re.Match[str]) -> str:
        names = sorted(set(re.findall(r"zone (\w+)", match.group())))
        tail = re.search(r"(?:, | and )$", match.group())
        return "node n zone " + "/".join(names) + (tail.group() if tail else "")

    text = HEX_OR_NUMBER.sub("N", ZONES.sub(zones, message))
    return REPEATED.sub("N", PLURALS.sub(r"\1", re.sub(r"\bnode N\b", "node n", text)))


@dataclass(frozen=True)
class Sighting:
    """
    A signature that a layout gave.

    :ivar severity: One of :data:`SEVERITIES`.
    :ivar signature: Rule or source, message without numbers, worst outcome.
    :ivar count: How often.
    :ivar example: The first message, with its numbers.
    """

    severity: str
    signature: str
    count: int
    example: str

    @property
    def key(self) -> str:
        """Return severity and signature."""
        return f"{self.severity} {self.signature}"


@dataclass(frozen=True)
class Judgment:
    """
    What mminspect says of a vmcore.

    :ivar sightings: The signatures of its findings.
    :ivar zones: The report's zones.
    :ivar error: Why there is no report, or an empty text.
    :ivar cpu_seconds: CPU time of the scan.
    """

    sightings: tuple[Sighting, ...]
    zones: tuple[Mapping[str, Any], ...]
    error: str
    cpu_seconds: float


def worst_outcome(finding: Mapping[str, Any]) -> str:
    """Return the worst that kernel functions make of a finding, or an empty text."""
    outcomes = {item["outcome"] for item in finding.get("detail", {}).get("consequences", [])}
    unknown = sorted(outcomes.difference(OUTCOMES))
    known = [outcome for outcome in OUTCOMES if outcome in outcomes]
    return (unknown or known or [""])[-1]


def signature_of(finding: Mapping[str, Any]) -> str:
    """Return the signature of a finding: mminspect's own where it gives one."""
    own = finding.get("signature")
    if isinstance(own, str):
        return f"{finding['rule']}: {own}"
    outcome = worst_outcome(finding)
    return f"{finding['rule']}: {without_numbers(finding['message'])}" + (f" [{outcome}]" if outcome else "")


def sightings_of(findings: Iterable[Mapping[str, Any]]) -> tuple[Sighting, ...]:
    """Return the signatures of findings, each once."""
    seen: dict[tuple[str, str], Sighting] = {}
    for finding in findings:
        key = finding["severity"], signature_of(finding)
        where = f"{finding['start_pfn']:#x}-{finding['end_pfn']:#x}" if "start_pfn" in finding else ""
        first = seen.get(key)
        example = first.example if first else f"{where} {finding['message']}"
        seen[key] = Sighting(*key, (first.count if first else 0) + 1, example)
    return tuple(seen.values())


# The server.


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (SCAN_MEMORY, SCAN_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SCAN_CPU_SECONDS, SCAN_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_REPORT, MAX_REPORT))
    signal.alarm(SCAN_WALL_SECONDS)


def _command_line(words: list[str], out: int, errors: int, modules: int) -> NoReturn:
    """Be mminspect's command line in a forked child."""
    _limit()
    for source, target in ((out, 1), (errors, 2)):
        os.dup2(source, target)
    sys.argv = ["mminspect", *words]
    status = 3
    try:
        runpy.run_module("mminspect", run_name="__main__", alter_sys=True)
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else 2
    except BaseException as error:  # the child must not return into the server
        os.write(errors, f"{type(error).__name__}: {error}".encode())
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os.write(modules, "\n".join(sys.modules).encode())
    os._exit(status)


def _import(names: Iterable[str]) -> None:
    """Import what a scan imported, so that the next child has it already."""
    for name in names:
        if name not in sys.modules and name != "__main__" and not name.endswith("__main__"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _text(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")


def _scan(path: str, options: list[str]) -> Judgment:
    files = [os.memfd_create(name) for name in ("out", "errors", "modules")]
    try:
        child = os.fork()
        if child == 0:
            words = ["-c", path, *options, "scan", "--format", "json", "--fail-on", "never"]
            _command_line(words, *files)
        _, status, usage = os.wait4(child, 0)
        cpu = usage.ru_utime + usage.ru_stime
        out, errors, modules = (_text(fd) for fd in files)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            last = errors.strip().splitlines()[-1:] or [f"ended by signal {-code}" if code < 0 else f"status {code}"]
            return Judgment((), (), last[0].removeprefix("error: ").replace(path, "the vmcore"), cpu)
        _import(modules.split("\n"))
        report = json.loads(out)
        return Judgment(sightings_of(report["findings"]), tuple(report["zones"]), "", cpu)
    finally:
        for fd in files:
            os.close(fd)


def serve() -> None:
    """Answer requests on standard input, a line of JSON each, until it is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            judgment = _scan(request["path"], request["options"])
        except (ValueError, KeyError, OSError) as error:
            judgment = Judgment((), (), f"no report: {type(error).__name__}: {error}", 0.0)
        answers.write(json.dumps(asdict(judgment)) + "\n")
        answers.flush()


# The client.


class Scanner:
    """A server that scans vmcores, started when it is first asked."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def scan(self, path: str, options: Iterable[str] = ()) -> Judgment:
        """
        Scan a vmcore.

        :param path: A path that is valid in any process of this user.
        :param options: Options of mminspect that come before the command.
        :raises HarnessError: if the server doesn't answer.
        """
        if self.process is None:
            words = [*dies_with_parent(), sys.executable, "-m", "contrib.explore.judge"]
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None and self.process.stdout is not None
        line = b""
        end = time.monotonic() + ANSWER_SECONDS
        try:
            self.process.stdin.write(json.dumps({"path": path, "options": list(options)}).encode() + b"\n")
            self.process.stdin.flush()
            while not line.endswith(b"\n"):
                if not select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                    break
                piece = os.read(self.process.stdout.fileno(), 1 << 20)
                if not piece:
                    break
                line += piece
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            self.close()
            raise HarnessError("the scan of a vmcore did not end, or its server died")
        data = json.loads(line)
        return Judgment(
            tuple(Sighting(**item) for item in data["sightings"]),
            tuple(data["zones"]),
            data["error"],
            data["cpu_seconds"],
        )

    def close(self) -> None:
        """End the server."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


if __name__ == "__main__":
    serve()
