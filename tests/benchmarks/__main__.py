# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Measure mminspect beside its peers, and how it grows: ``python -m tests.benchmarks``.

``--markdown docs/performance.md`` writes the page of the documentation.

Without --core, a Debian 6.1 guest of 4 GiB is booted and dumped first (its packages are fetched; see contrib/kernels),
and without --large a guest of 128 GiB. Times are user and system CPU seconds, the best of some runs: others who use the
machine don't change them much. Only --jobs and fleets are judged by the clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import drgn
import numpy as np

from contrib.kernels.fetch import cache_dir
from contrib.kernels.matrix import find_row
from contrib.kernels.row import boot_row, debug_of, kernel_of
from mminspect import __version__
from tests.benchmarks.against import compare_with
from tests.benchmarks.busy import compare_busy, machine
from tests.benchmarks.fleet import compare_fleet
from tests.benchmarks.measure import Table, best, command, run_once, scan_command
from tests.benchmarks.pictures import compare_pictures

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

ONLY = ("start", "peers", "use", "busy", "pictures", "large", "kdump", "growth", "fleet")

HEAD = """\
<!-- SPDX-License-Identifier: LGPL-2.1-or-later -->
<!-- Written by: python -m tests.benchmarks --markdown docs/performance.md -->
# How fast mminspect is

For each chunk of the memmap, a scan computes the OR and the AND of its struct pages. In most chunks these prove that
nothing is wrong. pip compiles this step from C if it finds a compiler and Python's headers (on Debian: `apt-get install
gcc python3-dev`). Otherwise numpy does the same in two passes and takes twice as long.

If an ELF dump's headers or, on x86-64, the kernel's page tables tell where the memmap is in the file, it is mapped, not
copied. Pages of a kdump-compressed dump (zlib, zstd, or not compressed) are found, read and decompressed together.
libkdumpfile reads LZO and snappy; a flattened dump with many records of such pages is first put in order in `$TMPDIR`,
if there is room.

More than 10,000 findings, or fewer large ones, are spilled to an unlinked temporary file, so memory use stays constant.
From 32 GiB of memory on (4 GiB if compressed), a vmcore is read by as many processes as there are CPUs. `--jobs N`
overrides this, and the findings are the same for any N.

`python -m tests.benchmarks` boots and dumps guests, measures CPU time beside other ways, and prints the tables below.
Times are user and system CPU seconds, the best of some runs; only `wall s` is by the clock.
`python -m tests.benchmarks --against COMMIT` compares with another commit.
"""
ABOUT_START = "What a command takes before it reads its first struct page."
ABOUT_PEERS = "CPU time to go over all of the memmap."
ABOUT_KDUMP = "The time is that of decompressing the pages, and little more."
ABOUT_GROWTH = (
    "Memory maps made up while they are read; from 4 TiB on with holes. Holes cost nothing. "
    "`report s` is the time to write the JSON report."
)

# Pages that crash is asked for, so that they take longer than its start.
CRASH_PAGES = 1 << 23


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


def compare_start(core: Path, vmlinux: Path | None, repeat: int) -> Table:
    """Measure what it takes to start, with and without DWARF."""
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
    return Table(f"Start-up: {core.name}", ABOUT_START, ("command", "CPU s", "wall s"), table)


def compare_kdump(core: Path, repeat: int) -> Table:
    """Measure a dump that is compressed with zlib, flattened as QEMU writes it, and in order."""
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
    return Table(f"kdump compressed with zlib: {core.name}", ABOUT_KDUMP, headers, rows)


def compare(core: Path, vmlinux: Path | None, repeat: int, whole: Path | None = None) -> Table:
    """
    Measure mminspect and its peers.

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
        message = "crash is not measured: it is not installed, or doesn't know this kernel, or there is no vmlinux"
        click.echo(message, err=True)
    else:
        rows.append(("crash: kmem -p", pages, seconds))
    speed = pages / rows[0][2]
    table = [(name, f"{n / cpu / 1e6:.2f}", f"{speed / (n / cpu):.2f}") for name, n, cpu in rows]
    title = f"Beside other ways: {core.name}, {pages:,} pages"
    about = f"{ABOUT_PEERS} Start-up is not included; mminspect's is {opening(repeat, core):.2f} s."
    return Table(title, about, ("way", "M pages/s", "mminspect is x times as fast"), table)


def compare_walk(core: Path, repeat: int) -> Table:
    """Measure how a scan of a vmcore compares with reading its memmap, and what a second process brings."""
    plain, scan = peer(repeat, "plain-read", core), peer(repeat, "scan", core)
    ratio = scan["cpu"] / plain["cpu"]
    about = (
        f"`prog.read()` of the memmap takes {plain['cpu']:.3f} s, all rules {scan['cpu']:.3f} s: "
        f"{ratio:.2f} times as long. The whole command:"
    )
    rows = []
    for jobs in (1, 2):
        run = best(repeat, scan_command(core, jobs))
        rows.append((jobs, f"{run.cpu:.2f}", f"{run.wall:.2f}", f"{run.rss} MiB"))
    title = f"From start to end: {core.name}, {plain['pages']:,} pages"
    return Table(title, about, ("jobs", "CPU s", "wall s", "memory of a process"), rows)


def grow() -> Table:
    """Measure memory maps of several sizes."""
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
    return Table("Generated memory maps", ABOUT_GROWTH, headers, rows)


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


def processor() -> str:
    """Name the CPU, as far as the kernel does."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> str:
    """Name what is compared, and the machine."""
    try:
        said = subprocess.run(["crash", "--version"], capture_output=True, text=True, check=False).stdout
        crash = next(filter(None, said.splitlines()), "crash")
    except OSError:
        crash = "no crash"
    cpus = len(os.sched_getaffinity(0))
    return (
        f"mminspect {__version__}, drgn {drgn.__version__}, {crash}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {cpus} CPUs ({processor()}), load {os.getloadavg()[0]:.1f}"
    )


def write_markdown(path: Path, tables: Sequence[Table]) -> None:
    """Write what was measured as a page of the documentation."""
    parts = [f"{HEAD}\nMeasured on {time.strftime('%Y-%m-%d')}: {versions()}.\n"]
    for table in tables:
        about = textwrap.fill(table.about, 120, break_long_words=False, break_on_hyphens=False)
        parts.append(f"## {table.title}\n\n{about}\n\n{table.text('github')}\n")
    path.write_text("\n".join(parts), encoding="utf-8")


@click.command(help=__doc__)
@click.option("--core", type=click.Path(exists=True, path_type=Path), help="Vmcore to compare on.")
@click.option("--vmlinux", type=click.Path(exists=True, path_type=Path), help="Its vmlinux, for crash.")
@click.option(
    "--large", type=click.Path(exists=True, path_type=Path), help="Vmcore of a large machine, compressed with zlib."
)
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Runs, of which the best counts.")
@click.option("--against", metavar="COMMIT", help="Compare with this commit, on --core or a busy machine, and no more.")
@click.option("--only", type=click.Choice(ONLY), help="Measure this only.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the tables there as well.")
def main(
    core: Path | None,
    vmlinux: Path | None,
    large: Path | None,
    repeat: int,
    against: str | None,
    only: str | None,
    markdown: Path | None,
) -> None:
    directory = cache_dir() / "benchmarks"
    tables: list[Table] = []

    def show(table: Table) -> None:
        tables.append(table)
        click.echo(f"\n{table.title}\n{table.about}\n\n{table.text('simple')}")

    click.echo(versions())
    if against is not None:
        with contextlib.ExitStack() as stack:
            cores = [core] if core is not None else [stack.enter_context(machine("6.12", 64, directory))]
            show(compare_with(against, cores, repeat))
        return
    if only in (None, "start", "peers"):
        if core is None:
            core = build(directory, "amd64-6.1-4g", memory="4G")
            vmlinux = vmlinux or built_vmlinux()
        if only != "peers":
            show(compare_start(core, vmlinux, repeat))
        if only != "start":
            show(compare(core, vmlinux, repeat))
    if only in (None, "use"):
        show(compare_walk(build(directory, "amd64-6.1-4g-in-use", memory="4G", shell=USE), repeat))
    if only in (None, "busy"):
        show(compare_busy(directory, repeat))
    if only in (None, "pictures"):
        show(compare_pictures(directory, repeat))
    if only in (None, "large", "kdump"):
        if large is None:
            if only != "kdump":
                vmlinux = vmlinux or built_vmlinux()
            large = build(directory, "amd64-6.1-128g", memory="128G", qemu_args=HUGE_GUEST, format="kdump-zlib")
        if only != "kdump":
            captured = capture(large)
            show(compare_walk(captured, repeat))
            show(compare(captured, vmlinux, repeat, large))
        if only != "large" and not is_elf(large):
            show(compare_kdump(large, repeat))
    if only in (None, "growth"):
        show(grow())
    if only in (None, "fleet"):
        for table in compare_fleet(directory):
            show(table)
    if markdown is not None:
        write_markdown(markdown, tables)


if __name__ == "__main__":
    main()
