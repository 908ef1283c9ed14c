# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Measure mminspect beside its peers, and how it grows: ``python -m tests.benchmarks``.

Without --core, a Debian 6.1 guest of 4 GiB is booted and dumped first (its packages are fetched; see contrib/kernels),
and without --large a guest of 128 GiB. Times are user and system CPU seconds, the best of some runs: others who use the
machine don't change them much. Only --jobs is judged by the clock.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import drgn
import numpy as np
from tabulate import tabulate

from contrib.kernels.fetch import cache_dir
from contrib.kernels.matrix import find_row
from contrib.kernels.row import boot_row, debug_of, kernel_of
from mminspect import __version__

# (GiB from the first to the last page, one section of so many is there, findings).
GROWTH = (
    (16, 1, 0),
    (16, 1, 10),
    (16, 1, 100000),
    (16, 1, 1000000),
    (256, 1, 0),
    (256, 1, 10),
    (4096, 8, 0),
    (4096, 8, 10),
    (65536, 128, 0),
    (65536, 128, 10),
    (65536, 128, 100000),
)

# What a guest does to be as untidy as machines in use are: large and small files in memory, half of them deleted again.
USE = (
    "mkdir /large /small && mount -t tmpfs -o size=3g large /large && mount -t tmpfs -o size=1g small /small",
    "for i in $(seq 140); do dd if=/dev/zero of=/large/$i bs=1M count=20 2>/dev/null; done",
    "for i in $(seq 4000); do echo $i >/small/$i; done",
    "for i in $(seq 1 3 140); do rm /large/$i; done",
    "for i in $(seq 60); do dd if=/dev/zero of=/large/again$i bs=4k count=3000 2>/dev/null; done",
    "for i in $(seq 1 2 60); do rm /large/again$i; done",
)

HUGE_GUEST = ("-machine", "memory-backend=m", "-object", "memory-backend-ram,id=m,size=128G,reserve=off")


IMPORTS = "import numpy, drgn, click"
# What drgn does alone, without plugins.
DRGN_LOADS = """
import os, sys
os.environ["DRGN_DISABLE_PLUGINS"] = "*"
import drgn
prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
"""

ONLY = ("start", "peers", "use", "large", "kdump", "growth")

# Pages that crash is asked for, so that they take longer than its start.
CRASH_PAGES = 1 << 23


class Run(NamedTuple):
    """What a command took: CPU and wall seconds, and the most memory of a process in MiB."""

    cpu: float
    wall: float
    rss: int
    out: str


def run_once(command: Sequence[str], stdin: str = "") -> Run:
    """Run a command and measure it."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as given:
        given.write(stdin)
        given.seek(0)
        # As installed packages have it, modules are compiled once, not each time.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(command, stdin=given, stdout=out, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode not in (0, 1):
        raise click.ClickException(f"{' '.join(command)}: exit status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(cpu, time.monotonic() - start, usage.ru_maxrss >> 10, text)


def best(repeat: int, command: Sequence[str], stdin: str = "") -> Run:
    """Run a command a few times and choose the run that took the least CPU time."""
    return min((run_once(command, stdin) for _ in range(repeat)), key=lambda run: run.cpu)


def command(core: Path, *arguments: str, symbols: Path | None = None) -> list[str]:
    """Get a command line of mminspect."""
    options = ("-s", str(symbols)) if symbols is not None else ()
    return [sys.executable, "-m", "mminspect", "-c", str(core), *options, *arguments]


def scan_command(core: Path, jobs: int) -> list[str]:
    """Get the command line of a scan."""
    return command(core, "scan", "--format", "json", "--fail-on", "never", "--jobs", str(jobs))


def peer(repeat: int, way: str, core: Path) -> dict[str, Any]:
    """Run one of the peers that use drgn."""
    command = [sys.executable, "-m", "tests.benchmarks.peers", way, str(core)]
    results: list[dict[str, Any]] = [json.loads(run_once(command).out) for _ in range(repeat)]
    return min(results, key=lambda result: float(result["cpu"]))


def crash_seconds(core: Path, vmlinux: Path, pages: int) -> float | None:
    """Get what crash's "kmem -p" takes, start-up apart; None without a crash that knows the kernel."""
    command = ["crash", "-s", str(vmlinux), str(core)]
    times = -(-CRASH_PAGES // pages)
    try:
        idle = run_once(command, "quit\n").cpu
        busy = run_once(command, "kmem -p > /dev/null\n" * times + "quit\n").cpu
    except (OSError, click.ClickException):
        return None
    return (busy - idle) / times


def opening(repeat: int, core: Path) -> float:
    """Get what it takes mminspect to start, to open a vmcore and to read its layout."""
    return best(repeat, command(core, "zones")).cpu


def compare_start(core: Path, vmlinux: Path | None, repeat: int) -> None:
    """Print what it takes to start, with and without DWARF."""
    drgn_loads = [sys.executable, "-c", DRGN_LOADS, str(core)]
    rows = [
        ("Python with numpy, drgn and click", [sys.executable, "-c", IMPORTS]),
        ("mminspect zones", command(core, "zones")),
    ]
    if vmlinux is not None:
        rows.append(("drgn: load_debug_info()", [*drgn_loads, str(vmlinux)]))
        rows.append(("mminspect -s VMLINUX zones", command(core, "zones", symbols=vmlinux)))
    # By turns, so that what others do on the machine hits all alike.
    runs = [[run_once(line) for _, line in rows] for _ in range(repeat + 2)]
    least = [(min(run.cpu for run in column), min(run.wall for run in column)) for column in zip(*runs)]
    table = [(name, f"{cpu:.2f}", f"{wall:.2f}") for (name, _), (cpu, wall) in zip(rows, least)]
    click.echo(f"\n{core.name}: start-up\n")
    click.echo(tabulate(table, ("command", "CPU s", "wall s"), disable_numparse=True))


def compare_kdump(core: Path, repeat: int) -> None:
    """Print how long a dump that is compressed with zlib takes, flattened as QEMU writes it, and in order."""
    rows = []
    with tempfile.TemporaryDirectory(dir=core.parent) as directory:
        plain = Path(directory) / "plain"
        try:
            with core.open("rb") as file:
                subprocess.run(["makedumpfile", "-R", str(plain)], stdin=file, stdout=subprocess.DEVNULL, check=True)
        except (OSError, subprocess.CalledProcessError):
            click.echo("\nmakedumpfile is not installed, or can't put the dump in order", err=True)
        for name, dump in (("flattened", core), ("in order", plain)):
            if not dump.exists():
                continue
            bare, by_zlib = (peer(repeat, way, dump)["cpu"] for way in ("inflate", "inflate-zlib"))
            for way, label in (("plain-read", "prog.read()"), ("scan", "all rules")):
                cpu = peer(repeat, way, dump)["cpu"]
                rows.append((name, label, f"{cpu:.2f}", f"{cpu / bare:.2f}", f"{cpu / by_zlib:.2f}"))
            for jobs in (1, 2):
                run = best(repeat, scan_command(dump, jobs))
                label = f"whole command, {jobs} job{'s' * (jobs > 1)}: {run.wall:.2f} s wall, {run.rss} MiB"
                rows.append((name, label, f"{run.cpu:.2f}", f"{run.cpu / bare:.2f}", f"{run.cpu / by_zlib:.2f}"))
            for label, cpu in (("decompression and nothing else", bare), ("the same with Python's zlib", by_zlib)):
                rows.append((name, label, f"{cpu:.2f}", f"{cpu / bare:.2f}", f"{cpu / by_zlib:.2f}"))
    headers = ("dump", "way", "CPU s", "x decompression", "x Python's zlib")
    click.echo(f"\n{core.name}: kdump, compressed with zlib\n")
    click.echo(tabulate(rows, headers, disable_numparse=True))


def compare(core: Path, vmlinux: Path | None, repeat: int, whole: Path | None = None) -> None:
    """
    Print the table of mminspect and its peers.

    :param whole: The vmcore that a capture was made of, for crash. It reads more than a capture has.
    """
    rows: list[tuple[str, int, float]] = []
    for name, way, times in (
        ("mminspect: all rules", "scan", repeat),
        ("prog.read() and nothing else", "plain-read", repeat),
        ("drgn: flags of each page", "page-by-pfn", 1),
        ("drgn: for_each_valid_page_range()", "valid-page-range", 1),
    ):
        result = peer(times, way, core)
        rows.append((name, result["pages"], result["cpu"]))
    pages = rows[0][1]
    seconds = crash_seconds(whole or core, vmlinux, pages) if vmlinux is not None else None
    if seconds is None:
        click.echo("crash is not measured: it is not installed, or doesn't know this kernel, or there is no vmlinux")
    else:
        rows.append(("crash: kmem -p", pages, seconds))
    speed = pages / rows[0][2]
    table = [(name, f"{n / cpu / 1e6:.2f}", f"{speed / (n / cpu):.2f}") for name, n, cpu in rows]
    click.echo(f"\n{core.name}: {pages:,} pages. Start-up apart; mminspect's is {opening(repeat, core):.2f} s\n")
    click.echo(tabulate(table, ("way", "M pages/s", "mminspect is x times as fast"), disable_numparse=True))


def compare_walk(core: Path, repeat: int) -> None:
    """Print how a scan of a vmcore compares with reading its memmap, and what a second process brings."""
    plain, scan = peer(repeat, "plain-read", core), peer(repeat, "scan", core)
    ratio = scan["cpu"] / plain["cpu"]
    click.echo(
        f"\n{core.name}: {plain['pages']:,} pages. prog.read() takes {plain['cpu']:.3f} s, "
        f"all rules {scan['cpu']:.3f} s: {ratio:.2f} times as long. The whole command:\n"
    )
    rows = []
    for jobs in (1, 2):
        run = best(repeat, scan_command(core, jobs))
        rows.append((jobs, f"{run.cpu:.2f}", f"{run.wall:.2f}", f"{run.rss} MiB"))
    click.echo(tabulate(rows, ("jobs", "CPU s", "wall s", "memory of a process"), disable_numparse=True))


def grow() -> None:
    """Print what memory maps of several sizes take."""
    rows = []
    for span, holes, findings in GROWTH:
        arguments = [str(n) for n in (span, holes, findings, 1)]
        run = run_once([sys.executable, "-m", "tests.benchmarks.synthetic", *arguments])
        result = json.loads(run.out)
        pages, found = result["pages"], result["findings"]
        rows.append(
            (
                f"{span} GiB",
                f"{pages:,}",
                f"{found:,}",
                f"{result['cpu']:.2f}",
                f"{result['report']:.2f}",
                f"{result['cpu'] / pages * 1e9:.1f}",
                f"{result['rss']} MiB",
            )
        )
    headers = ("span", "online pages", "findings", "scan s", "report s", "scan ns/page", "memory")
    click.echo("\nGenerated memory maps; from 4 TiB on with holes\n")
    click.echo(tabulate(rows, headers, disable_numparse=True))


def build(directory: Path, name: str, **changes: Any) -> Path:
    """Boot a Debian 6.1 guest and dump it, unless that was done before."""
    core = directory / name
    if not core.exists():
        click.echo(f"boots a guest for {core}", err=True)
        directory.mkdir(parents=True, exist_ok=True)
        boot_row(dataclasses.replace(find_row("amd64-6.1"), name=name, **changes), core)
    return core


def built_vmlinux() -> Path | None:
    """Get the vmlinux of the guests that :func:`build` boots (350 MB, fetched once)."""
    row = find_row("amd64-6.1")
    return debug_of(row, kernel_of(row).release)


def is_elf(core: Path) -> bool:
    """Tell whether a vmcore is an ELF core."""
    with core.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def capture(core: Path) -> Path:
    """Make an ELF capture of a vmcore, unless it is an ELF core; anew each time, so that it is in the page cache."""
    if is_elf(core):
        return core
    target = core.with_name(f"{core.name}.capture")
    subprocess.run([sys.executable, "-m", "mminspect", "-c", str(core), "capture", "-o", str(target)], check=True)
    # Or it would be written to the disk while it is measured.
    os.sync()
    return target


def versions() -> str:
    """Name what is compared."""
    try:
        said = subprocess.run(["crash", "--version"], capture_output=True, text=True, check=False).stdout
        crash = next(filter(None, said.splitlines()), "crash")
    except OSError:
        crash = "no crash"
    cpus = len(os.sched_getaffinity(0))
    return (
        f"mminspect {__version__}, drgn {drgn.__version__}, {crash}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {cpus} CPUs, load {os.getloadavg()[0]:.1f}"
    )


@click.command(help=__doc__)
@click.option("--core", type=click.Path(exists=True, path_type=Path), help="Vmcore to compare on.")
@click.option("--vmlinux", type=click.Path(exists=True, path_type=Path), help="Its vmlinux, for crash.")
@click.option(
    "--large", type=click.Path(exists=True, path_type=Path), help="Vmcore of a large machine, compressed with zlib."
)
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Runs, of which the best counts.")
@click.option("--only", type=click.Choice(ONLY), help="Measure this only.")
def main(core: Path | None, vmlinux: Path | None, large: Path | None, repeat: int, only: str | None) -> None:
    directory = cache_dir() / "benchmarks"
    click.echo(versions())
    if only in (None, "start", "peers"):
        if core is None:
            core = build(directory, "amd64-6.1-4g", memory="4G")
            vmlinux = vmlinux or built_vmlinux()
        if only != "peers":
            compare_start(core, vmlinux, repeat)
        if only != "start":
            compare(core, vmlinux, repeat)
    if only in (None, "use"):
        compare_walk(build(directory, "amd64-6.1-4g-in-use", memory="4G", shell=USE), repeat)
    if only in (None, "large", "kdump"):
        if large is None:
            if only != "kdump":
                vmlinux = vmlinux or built_vmlinux()
            large = build(directory, "amd64-6.1-128g", memory="128G", qemu_args=HUGE_GUEST, format="kdump-zlib")
        if only != "kdump":
            captured = capture(large)
            compare_walk(captured, repeat)
            compare(captured, vmlinux, repeat, large)
        if only != "large" and not is_elf(large):
            compare_kdump(large, repeat)
    if only in (None, "growth"):
        grow()


if __name__ == "__main__":
    main()
