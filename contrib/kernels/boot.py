# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot a kernel under QEMU, wait until its init is ready, and dump its memory."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrib.kernels import elfcore
from contrib.kernels.errors import HarnessError
from contrib.kernels.gdb import parse_poke, poke
from contrib.kernels.initrd import (
    MARK,
    POKE,
    POKES_WANTED,
    QMP_WANTED,
    QMP_WANTED_AGAIN,
    READY,
    SECTIONS,
    Truth,
    parse_console,
)

POLL_SECONDS = 0.2
SETTLE_SECONDS = 0.5
END_SECONDS = 10.0
DUMP_SECONDS = 600.0
QMP_SECONDS = 60.0
TAIL_LINES = 4
PANICKED = "---[ end Kernel panic"
LAST_PRINTED = f"{MARK} END {list(SECTIONS)[-1]}"
ELF = "elf"


@dataclass(frozen=True)
class Machine:
    """How QEMU runs an architecture, and what its dumps need."""

    qemu: str
    console: str
    args: tuple[str, ...] = ()
    append: str = ""
    vmcoreinfo_device: bool = True
    repairs: tuple[elfcore.Repair, ...] = ()


ARMHF_RAM = 0x40000000
ARMHF_PAGE_OFFSET = 0xC0000000
# TCG has none of the mitigations that pseries asks for by default.
PSERIES = "pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"

MACHINES: Mapping[str, Machine] = {
    # On a busy host the kernel's check of the timer fails now and then.
    "amd64": Machine("qemu-system-x86_64", "ttyS0", append="no_timer_check"),
    "i386": Machine("qemu-system-x86_64", "ttyS0", append="no_timer_check"),
    "arm64": Machine("qemu-system-aarch64", "ttyAMA0", ("-machine", "virt", "-cpu", "cortex-a57")),
    "armhf": Machine(
        "qemu-system-arm",
        "ttyAMA0",
        ("-machine", "virt", "-cpu", "cortex-a15"),
        vmcoreinfo_device=False,
        repairs=(functools.partial(elfcore.linear_map, physical=ARMHF_RAM, virtual=ARMHF_PAGE_OFFSET),),
    ),
    "s390x": Machine("qemu-system-s390x", "ttysclp0", vmcoreinfo_device=False),
    "riscv64": Machine("qemu-system-riscv64", "ttyS0", ("-machine", "virt"), vmcoreinfo_device=False),
    "ppc64el": Machine(
        "qemu-system-ppc64",
        "hvc0",
        ("-machine", PSERIES, "-nodefaults"),
        vmcoreinfo_device=False,
        repairs=(elfcore.little_endian, elfcore.drop_notes),
    ),
}


@dataclass(frozen=True)
class QmpCommand:
    """A command for QEMU's monitor, such as object_add."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Guest:
    """One guest: what to boot, with what, and how to dump it."""

    arch: str
    kernel: Path
    initrd: Path
    memory: str = "400M"
    qemu_args: tuple[str, ...] = ()
    append: str = ""
    kaslr: bool = False
    paging: bool = False
    format: str = ELF
    qmp: tuple[QmpCommand, ...] = ()
    qmp_again: tuple[QmpCommand, ...] = ()
    """Commands for when init asks a second time."""
    timeout: float = 300.0
    panics: bool = False
    """The kernel is meant to panic; it is dumped then."""
    pokes: bool = False
    """Init prints what to write into the kernel's memory."""


@dataclass(frozen=True)
class Booted:
    """The result of a boot."""

    core: Path
    log: Path
    truth: Truth
    ready_seconds: float


class Qmp:
    """QEMU's monitor on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(QMP_SECONDS)
        try:
            self.socket.connect(str(path))
            self.stream = self.socket.makefile("rw")
            self.receive()
            self.execute("qmp_capabilities")
        except OSError as error:
            self.socket.close()
            raise HarnessError(f"cannot talk to QEMU: {error}") from None

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.stream.close()
        self.socket.close()

    def receive(self) -> dict[str, Any]:
        """Return the next message."""
        line = self.stream.readline()
        if not line:
            raise HarnessError("QEMU closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, name: str, arguments: Mapping[str, Any] | None = None, seconds: float = QMP_SECONDS) -> Any:
        """Run a command and return its result; events in between are skipped."""
        self.socket.settimeout(seconds)
        try:
            message = {"execute": name, "arguments": dict(arguments or {})}
            self.stream.write(json.dumps(message) + "\n")
            self.stream.flush()
            while True:
                reply = self.receive()
                if "error" in reply:
                    raise HarnessError(f"QEMU refused {name}: {reply['error'].get('desc')}")
                if "return" in reply:
                    return reply["return"]
        except OSError as error:
            raise HarnessError(f"QEMU did not answer {name}: {error}") from None


def kernel_parameters(guest: Guest) -> str:
    """Return the kernel's command line."""
    machine = MACHINES[guest.arch]
    # With 0 a kernel that panicked stays, so that it can be dumped.
    words = [f"console={machine.console}", "panic=0" if guest.panics else "panic=-1"]
    words += [] if guest.kaslr else ["nokaslr"]
    return " ".join([*words, *machine.append.split(), *guest.append.split()])


def gdb_socket(monitor: Path) -> Path:
    """Return the socket of the gdb stub, beside the monitor's."""
    return monitor.with_name("gdb")


def qemu_command(guest: Guest, log: Path, monitor: Path) -> list[str]:
    """Return QEMU's command line."""
    machine = MACHINES[guest.arch]
    command = [machine.qemu, *machine.args, "-accel", "tcg", "-m", guest.memory]
    command += ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd)]
    command += ["-append", kernel_parameters(guest)]
    command += ["-display", "none", "-no-reboot", "-serial", f"file:{option_value(log)}"]
    command += ["-qmp", f"unix:{option_value(monitor)},server=on,wait=off"]
    if guest.pokes:
        command += ["-gdb", f"unix:{option_value(gdb_socket(monitor))},server=on,wait=off"]
    if machine.vmcoreinfo_device:
        command += ["-device", "vmcoreinfo"]
    return command + list(guest.qemu_args)


def option_value(path: Path) -> str:
    """Return a path as QEMU's options want it, with commas doubled."""
    return str(path).replace(",", ",,")


def dies_with_parent() -> list[str]:
    """Return the words before a command that end it should this process be killed."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


@contextlib.contextmanager
def running(command: Sequence[str], errors: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run QEMU, and make sure that it is gone at the end, whatever happens."""
    if shutil.which(command[0]) is None:
        raise HarnessError(f"{command[0]} is not installed; install it and try again")
    with open(errors, "wb") as stream:
        process = subprocess.Popen(
            [*dies_with_parent(), *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a text file on one line."""
    if not path.exists():
        return ""
    text = path.read_text(errors="replace").replace("\r", "")
    return " / ".join(line for line in text.splitlines()[-lines:] if line.strip())


@dataclass
class Watch:
    """Waits for words on a guest's console."""

    process: subprocess.Popen[bytes]
    log: Path
    errors: Path
    deadline: float

    def console(self) -> str:
        """Return what the console shows so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, word: str, panics: bool = False) -> None:
        """Wait until a line of the console is word, or until the kernel panicked if it is to do so."""
        while True:
            ended = self.process.poll()
            text = self.console()
            if panics and PANICKED in text:
                if LAST_PRINTED not in text:
                    raise HarnessError(f"the guest's kernel panicked too early; see {self.log}")
                return
            if word in (line.strip() for line in text.splitlines()):
                if panics:
                    raise HarnessError(f"the guest's kernel did not panic; see {self.log}")
                return
            if "Kernel panic" in text and not panics:
                raise HarnessError(f"the guest's kernel panicked; see {self.log}")
            if ended is not None:
                said = tail(self.errors) or tail(self.log) or "the guest stopped early"
                raise HarnessError(f"QEMU ended with {ended}: {said}; see {self.log}")
            if time.monotonic() > self.deadline:
                raise HarnessError(f"no '{word}' in time: {tail(self.log)}; see {self.log}")
            time.sleep(POLL_SECONDS)


def dump(qmp: Qmp, guest: Guest, out: Path) -> None:
    """Let QEMU write the guest's memory into a file."""
    arguments: dict[str, Any] = {"paging": guest.paging, "protocol": f"file:{out}"}
    if guest.format != ELF:
        arguments["format"] = guest.format
    qmp.execute("dump-guest-memory", arguments, DUMP_SECONDS)


def dig_holes(core: Path) -> None:
    """Give back the disk space of zeros, which is most of a dump. Its content stays the same."""
    if shutil.which("fallocate"):
        command = ["fallocate", "--dig-holes", str(core)]
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


def finish(core: Path, guest: Guest, truth: Truth) -> None:
    """Put right what QEMU left wrong in a dump."""
    machine = MACHINES[guest.arch]
    if guest.format != ELF:
        return
    place = None
    if not machine.vmcoreinfo_device:
        place = truth.vmcoreinfo
        if place is None:
            raise HarnessError("the guest does not say where its VMCOREINFO note is")
    elfcore.repair(core, place, machine.repairs)
    with open(core, "rb") as stream:
        if not elfcore.has_vmcoreinfo(stream):
            raise HarnessError("the dump has no VMCOREINFO note; does the guest have qemu_fw_cfg?")


def check(guest: Guest) -> None:
    """Refuse what cannot work before QEMU is started."""
    if guest.arch not in MACHINES:
        raise HarnessError(f"no machine for {guest.arch}; there are {', '.join(MACHINES)}")
    machine = MACHINES[guest.arch]
    if guest.format != ELF and (guest.paging or machine.repairs or not machine.vmcoreinfo_device):
        raise HarnessError(f"{guest.format} does not go with this machine or paging; dump as ELF")


def boot(guest: Guest, out: Path) -> Booted:
    """Boot a guest and dump its memory into out. The console goes to out.log."""
    check(guest)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    log, part = out.with_name(out.name + ".log"), out.with_name(out.name + ".part")
    for path in (out, log, part):
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="mminspect-") as temporary:
        monitor, errors = Path(temporary, "qmp"), Path(temporary, "errors")
        start = time.monotonic()
        try:
            with running(qemu_command(guest, log, monitor), errors) as process:
                watch = Watch(process, log, errors, start + guest.timeout)
                ready = drive(watch, guest, monitor, part) - start
            truth = parse_console(log.read_text(errors="replace"))
            finish(part, guest, truth)
            dig_holes(part)
            os.chmod(part, 0o644)
            part.rename(out)
        finally:
            part.unlink(missing_ok=True)
    return Booted(out, log, truth, ready)


def drive(watch: Watch, guest: Guest, monitor: Path, part: Path) -> float:
    """Take a running guest from power on to the dump. Return the time it was ready."""
    for word, commands in ((QMP_WANTED, guest.qmp), (QMP_WANTED_AGAIN, guest.qmp_again)):
        if commands:
            watch.wait_for(word)
            with contextlib.closing(Qmp(monitor)) as qmp:
                for command in commands:
                    qmp.execute(command.name, command.arguments)
    if guest.pokes:
        watch.wait_for(POKES_WANTED)
        lines = (line.strip() for line in watch.console().splitlines())
        poke(gdb_socket(monitor), [parse_poke(line[len(POKE) :]) for line in lines if line.startswith(POKE + " ")])
    watch.wait_for(READY, guest.panics)
    ready = time.monotonic()
    time.sleep(SETTLE_SECONDS)
    with contextlib.closing(Qmp(monitor)) as qmp:
        dump(qmp, guest, part)
        qmp.execute("quit")
        with contextlib.suppress(subprocess.TimeoutExpired):  # running() then ends it
            watch.process.wait(END_SECONDS)
    return ready
