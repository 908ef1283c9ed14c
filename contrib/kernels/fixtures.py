# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the stored vmcores of the tests anew: capture the dumps of some rows."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrib.kernels.errors import HarnessError
from contrib.kernels.matrix import find_row
from contrib.kernels.row import debug_of
from contrib.kernels.run import Types, count_findings, dumped, lacks_btf, make_btf, mminspect, scan

CAPTURE_SECONDS = 600
VMCORES = Path(__file__).resolve().parents[2] / "fixtures" / "vmcores"
SUFFIX = ".xz"

# The rows of the fixtures, by the names of the files.
FIXTURES: Mapping[str, str] = {
    "amd64-5.10-bug": "amd64-5.10-bug",
    "amd64-5.10-hotplug": "amd64-5.10-hotplug",
    "amd64-6.1-healthy": "amd64-6.1-odd",
    "amd64-6.1-interleaved-page": "amd64-6.1-interleaved-page",
    "amd64-6.1-lru": "amd64-6.1-lru",
    "amd64-6.1-poisoned": "amd64-6.1-poisoned",
    "amd64-6.1-soft-reserved-inside": "amd64-6.1-soft-reserved-inside",
    "amd64-6.1-sparse": "amd64-6.1-sparse",
    "amd64-6.12-400m": "amd64-6.12",
    "amd64-6.12-damaged": "amd64-6.12-damaged",
    "amd64-6.12-low-ram": "amd64-6.12-low-ram",
    "amd64-6.12-sysrq": "amd64-6.12-sysrq",
    "amd64-6.18-devdax-early": "amd64-6.18-devdax-early",
    "amd64-7.2-null": "amd64-7.2-null",
    "amd64-7.2-numa": "amd64-7.2-numa",
    "amd64-7.3-interleaved-enough": "amd64-7.3-interleaved-enough",
    "amd64-7.3-late-block": "amd64-7.3-late-block",
    "amd64-7.3-lru-gen": "amd64-7.3-lru-gen",
    "arm64-6.12": "arm64-6.12",
    "arm64-6.12-16k": "arm64-6.12-16k",
    "armhf-6.12": "armhf-6.12",
    "i386-5.10-behind-mem-map": "i386-5.10-pae-behind-mem-map",
    "i386-5.10-hole": "i386-5.10-pae-hole",
    "i386-6.1-numa": "i386-6.1-numa",
    "ppc64el-6.12": "ppc64el-6.12",
    "ppc64el-6.12-64k": "ppc64el-6.12-64k",
    "riscv64-6.12": "riscv64-6.12",
    "s390x-6.12": "s390x-6.12",
}


@dataclass(frozen=True)
class Captured:
    """A fixture that was made."""

    path: Path
    command: str
    """mminspect's command line, without the directories."""
    report: Mapping[str, Any]
    seconds: float

    def __str__(self) -> str:
        """Return one line about it."""
        return (
            f"{self.path.name}: {self.report['target']['release']}, {self.path.stat().st_size} bytes, "
            f"findings {count_findings(self.report)}, {self.seconds:.1f} s"
        )


def capture(core: Path, types: Types, output: Path) -> list[str]:
    """Capture a dump as a user does. Return the words of mminspect's command line."""
    words = ["-c", str(core), *types.options, "capture", "-o", str(output)]
    mminspect(words, f"the capture of {core.name}", CAPTURE_SECONDS)
    return words


def differences(dump: Mapping[str, Any], fixture: Mapping[str, Any]) -> list[str]:
    """Return what a fixture's report has otherwise than its dump's."""

    def plain(report: Mapping[str, Any]) -> dict[str, Any]:
        target = {key: value for key, value in report["target"].items() if key != "path"}
        summary = {key: value for key, value in report["summary"].items() if key != "elapsed_seconds"}
        return {**report, "target": target, "summary": summary}

    one, other = plain(dump), plain(fixture)
    return [key for key in one if one[key] != other.get(key)]


def make_fixture(name: str, dumps: Path, directory: Path) -> Captured:
    """Capture the dump of a fixture's row; boot the row if there is no dump.

    The file is put into its place once a scan of it says just what the scan of the dump says.
    """
    if name not in FIXTURES:
        raise HarnessError(f"no fixture {name}; there are {', '.join(FIXTURES)}")
    row = find_row(FIXTURES[name])
    start = time.monotonic()
    core, truth, _ = dumped(row, dumps, again=False)
    with tempfile.TemporaryDirectory(prefix=".capture-", dir=directory) as temporary:
        types = Types("btf")
        try:
            report, _ = scan(core, types)
        except HarnessError as error:
            vmlinux = debug_of(row, truth.release) if lacks_btf(error) else None
            if vmlinux is None:
                raise
            types = make_btf(vmlinux, Path(temporary))
            report, _ = scan(core, types)
        made = Path(temporary, name + SUFFIX)
        words = capture(core, types, made)
        again, _ = scan(made, Types("the fixture's own types"))
        wrong = differences(report, again)
        if wrong:
            raise HarnessError(f"the fixture {name} and its dump differ in {', '.join(wrong)}")
        final = directory / made.name
        made.replace(final)
    command = shlex.join(["mminspect", *(Path(word).name if "/" in word else word for word in words)])
    return Captured(final, command, report, time.monotonic() - start)
