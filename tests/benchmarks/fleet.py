# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Measure ``mminspect fleet run`` on many captures: its speed, what it costs beside the reading, and whether it grows.

The captures are made of the stored ones: another fault is planted into each. They are compressed block by block, so
that only what was changed is compressed anew.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from drgn import offsetof

from mminspect.fleet.rows import FILE, READ
from mminspect.fleet.store import ROWS
from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import open_kernel
from mminspect.memorymap.structpages import pfn_to_page
from tests.benchmarks.measure import Table
from tests.kit.support import VMCORES, CoreEditor

# Kinds of machine, each with its own memory; those whose captures are not so large that unpacking is all that counts.
KINDS = (
    *("amd64-5.10-bug", "amd64-6.1-healthy", "amd64-6.1-interleaved-page", "amd64-6.1-lru", "amd64-6.1-poisoned"),
    *("amd64-6.12-400m", "amd64-6.12-damaged", "amd64-6.12-low-ram", "amd64-6.12-sysrq", "amd64-7.2-null"),
    *("amd64-7.3-interleaved-enough", "amd64-7.3-late-block", "arm64-6.12", "i386-6.1-numa", "s390x-6.12"),
)
# Files: of a fleet whose speed is measured, and of one that shows whether anything grows.
FEW = 1_000
MANY = 10_000
SEED = 22
BLOCK = 1 << 18
# Struct pages that a fault changes at most.
CHANGED = 64
# Seconds between two looks at what processes take.
EVERY = 0.5
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

ABOUT = (
    f"Captures of {len(KINDS)} kinds of machine, compressed with xz, another fault planted into each. `client` is the "
    "process that a user starts; Dask's scheduler is a part of it. Its memory and that of the largest worker are told "
    "when a tenth of the files was read, and at the end. Speeds are by the clock, start and end included."
)
HEADERS = ("way", "files", "files/s", "client CPU ms/file", "client MiB", "worker MiB")
ABOUT_TYPES = (
    "CPU time of the process that reads a file, where the server that forks it keeps the index of each kernel's types "
    "for the next ones, and where it doesn't."
)
# Files that are read for that.
SAMPLE = 120


class Change(NamedTuple):
    """What is written over: where in a file, and with what."""

    offset: int
    data: bytes


class Machine:
    """
    A stored vmcore of which captures are made.

    :param path: The vmcore, unpacked.
    """

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._blocks: dict[int, bytes] = {}
        self._editor = CoreEditor(path)
        with open_kernel(Inputs(str(path))) as kernel:
            memory = kernel.memory
            self._size = memory.layout.page.size
            self._windows = [
                (pfn_to_page(memory.layout, section, start), end - start)
                for start, end, section in kernel.memmap.windows()
            ]
            zone = kernel.target.prog.type("struct zone")
            spanned = offsetof(zone, "spanned_pages")
            self._spans = [(zone.address + spanned, zone.spanned) for zone in memory.zones if zone.spanned]

    def _offset(self, address: int, size: int) -> int:
        load = self._editor.load_at(address, size)
        return load.offset + address - load.vaddr

    def _fault(self, random_: random.Random) -> Change:
        """Choose a fault: struct pages that were never written, or are overwritten, or a zone with another end."""
        if not random_.randrange(4):
            address, spanned = random_.choice(self._spans)
            data = self._editor.word(max(1, spanned - random_.randrange(1, 1 << 14)))
            return Change(self._offset(address, len(data)), data)
        byte = random_.choice((0, 0xFF))
        while True:
            address, pages = random_.choice(self._windows)
            count = random_.randrange(1, min(CHANGED, pages) + 1)
            address += random_.randrange(pages - count + 1) * self._size
            with contextlib.suppress(AssertionError):
                return Change(self._offset(address, count * self._size), bytes([byte]) * (count * self._size))

    def write(self, path: Path, random_: random.Random) -> None:
        """Write a capture that has a fault."""
        offset, data = self._fault(random_)
        changed = range(offset // BLOCK, (offset + len(data) - 1) // BLOCK + 1)
        with path.open("wb") as file:
            for number in range(-(-len(self._data) // BLOCK)):
                start = number * BLOCK
                if number not in changed:
                    file.write(self._block(number))
                    continue
                block = bytearray(self._data[start : start + BLOCK])
                skip = max(0, offset - start)
                piece = data[max(0, start - offset) :][: BLOCK - skip]
                block[skip : skip + len(piece)] = piece
                file.write(lzma.compress(block, preset=0))

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            self._blocks[number] = lzma.compress(self._data[number * BLOCK :][:BLOCK], preset=0)
        return self._blocks[number]


def make_fleet(folder: Path, count: int, scratch: Path) -> None:
    """
    Make a folder of captures.

    :param scratch: Where the stored vmcores are unpacked meanwhile.
    """
    random_ = random.Random(SEED)
    machines = []
    for name in KINDS:
        path = scratch / name
        path.write_bytes(lzma.decompress((VMCORES / f"{name}.xz").read_bytes()))
        machines.append(Machine(path))
    folder.mkdir()
    for number in range(count):
        kind = number % len(KINDS)
        machines[kind].write(folder / f"{number:05}-{KINDS[kind]}.xz", random_)


class Taken(NamedTuple):
    """What a process took: CPU seconds of its own, and bytes of memory."""

    cpu: float
    memory: int


def taken_by(pid: int) -> Taken | None:
    """Look at a process, ``None`` if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Taken((int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * PAGE)


def workers_of(client: int) -> list[int]:
    """Get the workers of Dask: children of children of multiprocessing's server, or of the client's own."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"--multiprocessing-fork" in words or any(b"spawn_main" in word for word in words):
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == client:
                    found.append(int(process.name))
    return found


class Ran(NamedTuple):
    """
    A run over a fleet.

    :ivar early: What client and largest worker had in memory when a tenth of the files was read; ``late`` at the end.
    """

    wall: float
    cpu: float
    early: tuple[int, int]
    late: tuple[int, int]
    rows: list[dict[str, Any]]


def run_fleet(folder: Path, out: Path, workers: int, count: int) -> Ran:
    """Run over a fleet, and look at the processes meanwhile."""
    command = [sys.executable, "-m", "mminspect", "fleet", "run", str(folder)]
    command += ["--out", str(out), "--workers", str(workers)]
    start = time.monotonic()
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cpu, early, late = 0.0, (0, 0), (0, 0)
    while client.poll() is None:
        time.sleep(EVERY)
        own = taken_by(client.pid)
        if own is None or not own.memory:
            continue
        cpu = own.cpu
        theirs = [taken.memory for taken in map(taken_by, workers_of(client.pid)) if taken is not None]
        if theirs:
            late = own.memory, max(theirs)
            if not early[0] and _files_read(out) * 10 >= count:
                early = late
    wall = time.monotonic() - start
    if client.returncode not in (0, 1):
        raise click.ClickException(f"{' '.join(command)}: exit status {client.returncode}")
    rows = [json.loads(line) for line in (out / ROWS).read_text().splitlines()]
    return Ran(wall, cpu, early, late, [row for row in rows if row["row"] == FILE])


def _files_read(out: Path) -> int:
    with contextlib.suppress(OSError):
        return (out / ROWS).read_bytes().count(b'{"row": "file"')
    return 0


def run_parallel(folder: Path, out: Path) -> float | None:
    """Do what a user has without fleet: GNU parallel running triage; give its seconds, None if it isn't installed."""
    if shutil.which("parallel") is None:
        return None
    script = f'find "{folder}" -type f | parallel -j2 "{sys.executable} -m mminspect triage --format json {{}}"'
    start = time.monotonic()
    with out.open("wb") as file:
        subprocess.run(["sh", "-c", script], stdout=file, stderr=subprocess.DEVNULL, check=False)
    return time.monotonic() - start


def _mib(number: tuple[int, int]) -> Iterator[int]:
    return (size >> 20 for size in number)


def compare_fleet(directory: Path, few: int = FEW, many: int = MANY) -> list[Table]:
    """Measure a fleet."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        rows: list[Sequence[Any]] = []
        runs = []
        seconds: float | None = None
        for count, workers in ((few, 1), (few, 2), (many, 2)):
            fleet = scratch / f"fleet-{count}"
            if not fleet.exists():
                click.echo(f"makes {count:,} captures", err=True)
                make_fleet(fleet, count, scratch)
            if count != few:
                seconds = run_parallel(scratch / f"fleet-{few}", scratch / "parallel")
            ran = run_fleet(fleet, scratch / f"out-{len(runs)}", workers, count)
            runs.append(ran)
            read = sum(row["status"] == READ for row in ran.rows)
            memory = (" to ".join(map(str, pair)) for pair in zip(_mib(ran.early), _mib(ran.late)))
            way = f"mminspect fleet run --workers {workers}"
            rows.append((way, f"{read:,}", f"{count / ran.wall:.1f}", f"{ran.cpu / count * 1e3:.1f}", *memory))
            click.echo(", ".join(map(str, rows[-1])), err=True)
        if seconds is not None:
            rows.append(("parallel -j2 mminspect triage", f"{few:,}", f"{few / seconds:.1f}", "", "", ""))
        one, two, large = runs
        more = (large.cpu - two.cpu) / (many - few) * 1e3
        about = (
            f"{ABOUT} Two workers are {one.wall / two.wall:.2f} times as fast as one. Of the client's time "
            f"{more:.1f} ms come with each file more; the rest is its start and its end."
        )
        return [
            Table("A fleet", about, HEADERS, rows),
            compare_types(sorted((scratch / f"fleet-{few}").iterdir())[:SAMPLE]),
        ]


def compare_types(paths: Sequence[Path]) -> Table:
    """Measure what it saves to remember the types of kernels."""
    command = [sys.executable, "-m", "tests.benchmarks.typecache", *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        remembered, forgotten = (float(cpu) / len(paths) * 1e3 for cpu in json.load(process.stdout))
    rows = [("remembered", f"{remembered:.1f}"), ("indexed anew", f"{forgotten:.1f}")]
    return Table("Types of kernels in a fleet", ABOUT_TYPES, ("types", "ms per file"), rows)
