# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Give a damaged vmcore to the field's other tools: ``python -m tests.fuzz.peers CORE --vmlinux VMLINUX``.

The vmcore is damaged as the fuzzer damages its inputs. drgn's CLI reads zones and the log, makedumpfile takes the log
out and writes a filtered dump, crash prints free pages and the log. Each has the limits of a case. Nothing is judged:
the table says how each ended, with the whole file first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tabulate import tabulate

from tests.fuzz.case import MAX_CPU_SECONDS, MAX_SECONDS, damaged, set_limits
from tests.fuzz.damage import Damager

DRGN = """
from drgn.helpers.linux import *
for pgdat in for_each_online_pgdat():
    print(*(zone.free_area[0].nr_free for zone in pgdat.node_zones))
print(get_dmesg())
"""
CRASH = b"kmem -f\nlog\nquit\n"


@dataclass
class Peer:
    """
    How a tool did.

    :ivar ends: How often it ended how.
    :ivar cpu: The longest CPU time, in seconds.
    :ivar rss_kb: The largest resident set.
    """

    ends: Counter[str] = field(default_factory=Counter)
    cpu: float = 0.0
    rss_kb: int = 0

    def run(self, command: list[str], text: bytes = b"") -> None:
        """Run a command and note how it ended."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as words:
            words.write(text)
            words.seek(0)
            process = subprocess.Popen(command, stdin=words, stdout=out, stderr=out, preexec_fn=set_limits)
            end = time.monotonic() + MAX_SECONDS
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            while not pid and time.monotonic() < end:
                time.sleep(0.02)
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if not pid:
                process.kill()
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = code = os.waitstatus_to_exitcode(status)
            out.seek(0)
            traceback = b"Traceback (most recent call last)" in out.read(1 << 24)
        cpu = usage.ru_utime + usage.ru_stime
        if not pid:
            how = f"killed after {MAX_SECONDS} s"
        elif code == -signal.SIGXCPU or cpu >= MAX_CPU_SECONDS:
            how = f"over {MAX_CPU_SECONDS} s of CPU"
        elif code < 0:
            how = signal.Signals(-code).name
        else:
            how = f"status {code}" + ", traceback" * traceback
        self.ends[how] += 1
        self.cpu, self.rss_kb = max(self.cpu, cpu), max(self.rss_kb, usage.ru_maxrss)

    def how(self) -> str:
        """Tell how often the tool ended how."""
        return ", ".join(f"{how}: {count}" for how, count in self.ends.most_common())


def commands(core: str, vmlinux: str, output: str) -> dict[str, list[str]]:
    """Get the command line of each tool that is there."""
    drgn = str(Path(sys.executable).with_name("drgn"))
    found = {
        "mminspect scan": [sys.executable, "-m", "mminspect", "scan", "-c", core],
        "mminspect triage": [sys.executable, "-m", "mminspect", "triage", "-c", core],
        "drgn": [drgn, "-q", "--no-default-symbols", "-s", vmlinux, "-c", core, "-e", DRGN],
        "makedumpfile --dump-dmesg": ["makedumpfile", "-f", "--dump-dmesg", core, output],
        "makedumpfile -d 31": ["makedumpfile", "-f", "-c", "-d", "31", core, output],
        "crash": ["crash", "-s", vmlinux, core],
    }
    return {name: command for name, command in found.items() if shutil.which(command[0])}


def main() -> None:
    """Parse the options, run the tools and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.peers", description=__doc__)
    parser.add_argument("core", type=Path, help="a vmcore, not too large: it is copied")
    parser.add_argument("--vmlinux", required=True, help="its vmlinux")
    parser.add_argument("--cases", type=int, default=200, help="damaged files (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the damage (default: 1)")
    parser.add_argument("--tool", action="append", help="run this one only; may be given more than once")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mminspect-peers-"))
    path = folder / "core"
    try:
        shutil.copyfile(options.core, path)
        tools = commands(str(path), options.vmlinux, str(folder / "output"))
        tools = {name: command for name, command in tools.items() if name in (options.tool or tools)}
        whole, peers = {}, {}
        for name, command in tools.items():
            whole[name], peers[name] = Peer(), Peer()
            whole[name].run(command, CRASH)
        damager = Damager(path)
        for number in range(options.cases):
            with damaged(path, damager.make(Random(f"{options.seed}/{number}"))):
                for name, command in tools.items():
                    peers[name].run(command, CRASH)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        [name, whole[name].how(), peer.how(), f"{peer.cpu:.1f}", peer.rss_kb // 1024] for name, peer in peers.items()
    ]
    headers = ["tool", "whole file", f"{options.cases} damaged files", "worst CPU s", "worst MB"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
