# SPDX-License-Identifier: LGPL-2.1-or-later
"""A running guest: wait for it, plug memory into it, dump it, and get what its script left."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contrib.kernels import elfcore
from contrib.kernels.boot import (
    POLL_SECONDS,
    Guest,
    Qmp,
    QmpCommand,
    Watch,
    dig_holes,
    dump,
    qemu_command,
    running,
    tail,
)
from contrib.kernels.errors import HarnessError
from contrib.kernels.fetch import Kernel
from contrib.kernels.initrd import READY, Truth, build_initrd, parse_console, split_sections
from contrib.live.kernels import find_busybox
from contrib.live.rootfs import MODULES, OUTPUT, STATUS, Job, fill_share, init_lines, share_args

SHARE_NAME = "share"


@dataclass(frozen=True)
class LiveGuest:
    """A guest that runs a script."""

    kernel: Kernel
    job: Job
    memory: str = "1G"
    cpus: int = 1
    qemu_args: Sequence[str] = ()
    append: str = ""
    kaslr: bool = True
    timeout: float = 900.0
    files: Mapping[str, str] = field(default_factory=dict)
    """Files to put into the shared directory."""


@dataclass(frozen=True)
class Result:
    """What a script that ended left behind."""

    status: int
    output: str


@dataclass
class Session:
    """A guest that is running."""

    watch: Watch
    qmp: Qmp
    share: Path
    guest: Guest

    def check(self) -> None:
        """Raise HarnessError if the guest is gone or has had its time."""
        text = self.watch.console()
        log = self.watch.log
        if "Kernel panic" in text:
            raise HarnessError(f"the guest's kernel panicked; see {log}")
        if self.watch.process.poll() is not None:
            raise HarnessError(f"QEMU ended: {tail(self.watch.errors) or tail(log)}; see {log}")
        if time.monotonic() > self.watch.deadline:
            raise HarnessError(f"the guest takes too long: {tail(self.share / OUTPUT) or tail(log)}; see {log}")

    def wait_for_file(self, name: str) -> Path:
        """Wait until the guest made a file in the shared directory."""
        path = self.share / name
        while not path.exists():
            self.check()
            if self.ended() and not path.exists():
                raise HarnessError(f"the script ended without {name}: {tail(self.share / OUTPUT)}")
            time.sleep(POLL_SECONDS)
        return path

    def wait(self, name: str) -> None:
        """Wait until the script is at 'pause NAME'."""
        self.wait_for_file(f"wait.{name}")

    def go(self, name: str) -> None:
        """Let the script go on after 'pause NAME'."""
        (self.share / f"go.{name}").touch()

    def ended(self) -> bool:
        """Return whether the script has ended."""
        return re.search(rf"(?m)^{STATUS} \d+\s*$", self.watch.console()) is not None

    def execute(self, *commands: QmpCommand) -> None:
        """Give QEMU commands, such as those that plug in memory."""
        for command in commands:
            self.qmp.execute(command.name, command.arguments)

    def dump(self, out: Path) -> Path:
        """Dump the guest's memory. The guest stands still while that is done, then goes on."""
        part = out.absolute().with_name(out.name + ".part")
        try:
            dump(self.qmp, self.guest, part)
            elfcore.repair(part)
            with open(part, "rb") as stream:
                if not elfcore.has_vmcoreinfo(stream):
                    raise HarnessError("the dump has no VMCOREINFO note; does the guest have qemu_fw_cfg?")
            dig_holes(part)
            part.rename(out)
        finally:
            part.unlink(missing_ok=True)
        return out

    def json(self, name: str) -> Any:
        """Return a JSON file that the script wrote into the shared directory."""
        path = self.share / name
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise HarnessError(f"the script left no {name}: {error}; {tail(self.share / OUTPUT)}") from None

    def finish(self) -> Result:
        """Wait until the script ends."""
        while not self.ended():
            self.check()
            time.sleep(POLL_SECONDS)
        text = self.watch.console()
        status = re.search(rf"(?m)^{STATUS} (\d+)\s*$", text)
        assert status is not None
        return Result(int(status.group(1)), split_sections(text).get(OUTPUT, ""))

    def truth(self) -> Truth:
        """Wait until the guest has printed its own view of its memory, and return that."""
        self.watch.wait_for(READY)
        return parse_console(self.watch.console())


def guest_of(live: LiveGuest, initrd: Path, share: Path) -> Guest:
    """Return what to boot."""
    # Wheels of numpy need more than QEMU's default CPU.
    args = ["-cpu", "max", "-smp", str(live.cpus), *share_args(share), *live.qemu_args]
    return Guest(
        arch="amd64",
        kernel=live.kernel.vmlinuz,
        initrd=initrd,
        memory=live.memory,
        qemu_args=tuple(args),
        append=live.append,
        kaslr=live.kaslr,
        timeout=live.timeout,
    )


def wait_for_monitor(watch: Watch, monitor: Path) -> Qmp:
    """Connect to QEMU's monitor once it is there."""
    while not monitor.exists():
        if watch.process.poll() is not None or time.monotonic() > watch.deadline:
            raise HarnessError(f"QEMU did not start: {tail(watch.errors)}")
        time.sleep(POLL_SECONDS)
    return Qmp(monitor)


@contextlib.contextmanager
def started(live: LiveGuest, log: Path | None = None) -> Iterator[Session]:
    """Boot a guest; it is gone at the end. The console goes to log, if one is named."""
    with tempfile.TemporaryDirectory(prefix="mminspect-") as name:
        temporary = Path(name)
        share = temporary / SHARE_NAME
        share.mkdir()
        share.chmod(0o1777)  # the directory around it is private
        fill_share(share, live.job, live.files)
        modules = live.kernel.modules
        initrd = build_initrd(temporary / "initrd", modules, find_busybox(), MODULES, init_lines(live.job))
        guest = guest_of(live, initrd, share)
        log = (log or temporary / "console").absolute()
        log.unlink(missing_ok=True)
        monitor, errors = temporary / "qmp", temporary / "errors"
        with running(qemu_command(guest, log, monitor), errors) as process:
            watch = Watch(process, log, errors, time.monotonic() + live.timeout)
            with contextlib.closing(wait_for_monitor(watch, monitor)) as qmp:
                yield Session(watch, qmp, share, guest)
