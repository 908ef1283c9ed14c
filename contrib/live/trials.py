# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trials of the live scan: against a dump of the same guest, under memory pressure, and during hotplug."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from contrib.kernels.agree import compare
from contrib.kernels.boot import QmpCommand
from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Kernel
from contrib.kernels.initrd import Truth
from contrib.kernels.layouts import dimm, numa
from contrib.live.compare import Key, Report, differences, scan_dump, strangers
from contrib.live.rootfs import SNAPSHOT, Job
from contrib.live.session import LiveGuest, Session, started

INSIDE = f"{SNAPSHOT}/contrib/live/inside"
SCAN = 'mminspect scan --format json --fail-on never -o "$share/live.json" || exit 3\n'
REFUSAL_FILES = ("stdout", "stderr", "status")


@dataclass(frozen=True)
class Layout:
    """A guest whose memory map has something to see."""

    note: str
    memory: str = "1G"
    qemu_args: Sequence[str] = ()
    append: str = ""


LAYOUTS: Mapping[str, Layout] = {
    "plain": Layout("DMA and DMA32, one node"),
    "numa": Layout("the node boundary lies inside block 0x20200", qemu_args=numa("515M", "509M")),
    "low-ram": Layout(
        "reserved pages at the end of low memory link to Normal inside DMA32",
        memory="1G",
        qemu_args=("-machine", "pc,max-ram-below-4g=523M"),
    ),
    "hole": Layout(
        "a reserved hole of 64 MiB inside DMA32; /proc/kcore doesn't export its struct pages",
        append="memmap=64M$256M",
    ),
    "ragged-hole": Layout("a reserved hole that begins and ends inside pageblocks", append="memmap=0x9c000$0xa17b000"),
    "movablecore": Layout("zone Movable", append="movablecore=256M"),
    "odd": Layout("memory that ends inside a pageblock", append="mem=801573K"),
}


def guest_with(kernel: Kernel, layout: Layout, job: Job) -> LiveGuest:
    """Return a guest with a layout that runs a job."""
    return LiveGuest(kernel, job, layout.memory, qemu_args=layout.qemu_args, append=layout.append)


@dataclass(frozen=True)
class Pair:
    """The report of a running kernel and the report of its dump."""

    live: Report
    dump: Report
    truth: Truth

    def differences(self) -> list[str]:
        """Return how the two differ, and how the live one differs from what the guest printed."""
        return differences(self.live, self.dump) + compare(self.live, self.truth)


def scan_and_dump(guest: LiveGuest, dump: Path, log: Path | None = None) -> Pair:
    """Scan inside a guest, and then its dump. The guest's script is replaced."""
    job = replace(guest.job, script=SCAN + "pause dump")
    with started(replace(guest, job=job), log) as session:
        session.wait("dump")
        session.dump(dump)
        session.go("dump")
        truth = session.truth()
        live = session.json("live.json")
    return Pair(live, scan_dump(dump), truth)


@dataclass(frozen=True)
class Refusal:
    """What a scan said that could not do its job."""

    status: int
    stdout: str
    stderr: str


def refused(guest: LiveGuest, prepare: str = "", log: Path | None = None) -> Refusal:
    """Run a scan that must fail, after some shell lines. Return what it said."""
    script = f'{prepare}\nmminspect scan >"$share/stdout" 2>"$share/stderr"; echo $? >"$share/status"'
    with started(replace(guest, job=replace(guest.job, script=script)), log) as session:
        session.finish()
        stdout, stderr, status = ((session.share / name).read_text() for name in REFUSAL_FILES)
    return Refusal(int(status), stdout, stderr)


@dataclass
class Series:
    """The reports of many scans of one guest."""

    scans: int = 0
    strangers: list[tuple[int, Key]] = field(default_factory=list)
    """Findings that no scan of a quiet guest had, with the number of the scan."""
    failures: list[str] = field(default_factory=list)
    """Scans that could not do their job."""
    transient: int = 0
    """What the scans themselves saw change and dropped."""
    seconds: float = 0.0
    pages: set[int] = field(default_factory=set)
    """Numbers of pages that the scans examined; more than one where memory came or went."""
    output: str = ""
    """What the script said."""

    def add(self, number: int, report: Report, known: Sequence[Report]) -> None:
        """Count one report."""
        self.scans += 1
        self.seconds += report["summary"]["elapsed_seconds"]
        self.pages.add(report["summary"]["pages_examined"])
        self.transient += count_of(report["summary"].get("transient", 0))
        self.strangers += [(number, key) for key in strangers(report, *known)]

    def __str__(self) -> str:
        """Return the result on one line."""
        return (
            f"{self.scans} scans, {len(self.failures)} failed, {len(self.strangers)} false findings, "
            f"{self.transient} transient, {self.seconds / max(self.scans, 1):.2f} s each"
        )


def count_of(transient: object) -> int:
    """Return a number out of summary.transient, a count or counts by rule."""
    if isinstance(transient, Mapping):
        return sum(count_of(value) for value in transient.values())
    return transient if isinstance(transient, int) else 0


def scan_loop(count: int, arguments: str = "") -> str:
    """Return the shell line that scans again and again, until $share/stop exists."""
    return f'"$python" {INSIDE}/scans.py "$share" {count} "$share/stop" {arguments}'.rstrip()


def read_series(share: Path, known: Sequence[Report], output: str) -> Series:
    """Read what the loop of scans left in the shared directory."""
    series = Series(output=output)
    for number, line in enumerate((share / "scans.ndjson").read_text().splitlines()):
        entry = json.loads(line)
        if entry["report"] is None:
            series.failures.append(f"scan {number}: status {entry['status']}: {entry['stderr'].strip()}")
        else:
            series.add(number, entry["report"], known)
    return series


def soak(guest: LiveGuest, scans: int, log: Path | None = None) -> Series:
    """Scan under memory pressure. Findings that the quiet guest doesn't have are false."""
    script = (
        'mminspect scan --format json --fail-on never -o "$share/quiet.json" || exit 3\n'
        f'"$python" {INSIDE}/pressure.py "$share/stop" &\n'
        f"{scan_loop(scans)} || exit 4\n"
        ': >"$share/stop"; wait'
    )
    with started(replace(guest, job=replace(guest.job, script=script)), log) as session:
        result = session.finish()
        if result.status:
            raise HarnessError(f"the script ended with {result.status}: {result.output.strip()}")
        return read_series(session.share, [session.json("quiet.json")], result.output)


CHURN_SECONDS = 12
BETWEEN_DUMPS_SECONDS = 2.3


def lru_findings(guest: LiveGuest, generations: bool, dumps: int, directory: Path) -> list[str]:
    """
    Dump a guest whose LRU lists are busy, at moments that have nothing to do with what it does.

    Return what the rule for LRU lists finds in them but notes, and whether it couldn't follow them. All of it is false.
    """
    script = f"inside={INSIDE}\n. {INSIDE}/churn.sh {'y' if generations else 'n'}\nsleep {CHURN_SECONDS}\npause dump\n"
    found = []
    with started(replace(guest, job=replace(guest.job, script=script))) as session:
        session.wait("dump")
        for number in range(dumps):
            core = session.dump(directory / f"core.{number}")
            report = scan_dump(core, ("--select", "lru-list"))
            core.unlink()
            found += [f"dump {number}: {f['message']}" for f in report["findings"] if f["severity"] != "note"]
            time.sleep(BETWEEN_DUMPS_SECONDS)
    return found


DIMM_MIB = (128, 256)
FOREVER = 1_000_000
HOTPLUG_RATE = "8M"
"""Slows scans down, so that memory comes and goes in the middle of them."""
PLUG_STEP_SECONDS = 0.37
PLUG_STEPS = 7


def unplug(number: int) -> QmpCommand:
    """Return the command that asks the guest to give a memory module back."""
    return QmpCommand("device_del", {"id": f"dimm{number}"})


def plug_rounds(session: Session, rounds: int, remove: bool) -> None:
    """Plug memory modules in while scans run, each at another moment of a scan; perhaps take them out again."""
    scan = 0

    def at(commands: Sequence[QmpCommand], number: int) -> None:
        nonlocal scan
        scan += 2
        session.wait_for_file(f"scan.{scan}")
        time.sleep(number % PLUG_STEPS * PLUG_STEP_SECONDS)
        session.execute(*commands)

    for number in range(rounds):
        at(dimm(number, DIMM_MIB[number % len(DIMM_MIB)]), number)
    for number in range(rounds if remove else 0):
        at([unplug(number)], number)
    session.wait_for_file(f"scan.{scan + 2}")


def hotplug(
    guest: LiveGuest, rounds: int, remove: bool = False, slowly: bool = True, log: Path | None = None
) -> Series:
    """Plug memory in while scans run. Findings that neither the state before nor after has are false."""
    quiet = 'mminspect scan --format json --fail-on never -o "$share/{}.json" || exit 3\n'
    script = (
        quiet.format("before")
        + ': >"$share/ready"\n'
        + scan_loop(FOREVER, f"--max-rate {HOTPLUG_RATE}" if slowly else "")
        + " || exit 4\n"
        + "sleep 2\n"
        + quiet.format("after")
        + "cat /sys/devices/system/memory/memory*/state | sort | uniq -c\n"
    )
    memory = f"{guest.memory},slots={2 * rounds},maxmem=16G"
    with started(replace(guest, memory=memory, job=replace(guest.job, script=script)), log) as session:
        session.wait_for_file("ready")
        plug_rounds(session, rounds, remove)
        (session.share / "stop").touch()
        result = session.finish()
        if result.status:
            raise HarnessError(f"the script ended with {result.status}: {result.output.strip()}")
        return read_series(session.share, [session.json("before.json"), session.json("after.json")], result.output)
