# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the live scan promises beyond its findings, tried in one guest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contrib.live.compare import strangers
from contrib.live.rootfs import Job
from contrib.live.session import LiveGuest, started
from contrib.live.tests.conftest import kernel_or_skip
from contrib.live.trials import LAYOUTS

pytestmark = pytest.mark.vm
MOST_KIBIBYTES = 150 * 1024
NOBODY = 65534

SCRIPT = r"""
# told NAME COMMAND...: keep stdout, stderr and the status of a command.
told() {
  name=$1
  shift
  "$@" >"$share/$name.out" 2>"$share/$name.err"
  echo $? >"$share/$name.status"
}
# running: the process ID of the scan that was started last.
running() { cat "$share/pid"; }
# slow NAME ARGUMENT...: start a scan that takes about 20 seconds, and wait until it reads the memmap.
# The shell lets commands in the background ignore SIGINT, so that is undone.
slow() {
  name=$1
  shift
  told "$name" sh -c 'echo $$ >"$share/pid"; exec env --default-signal=INT mminspect scan "$@"' sh \
    --max-rate 1M --format json --fail-on never "$@" &
  sleep 1
  until [ "$(awk '/^CapEff/ { print $2 }' "/proc/$(running)/status")" = 0000000000000000 ]; do sleep 0.5; done
  sleep 2
}
export share

told first mminspect scan --format json --fail-on never
told errors mminspect scan

# Memory, user and capabilities while it reads.
slow gentle
cat "/proc/$(running)/status" >"$share/gentle.proc"
cut -d ' ' -f 19 "/proc/$(running)/stat" >"$share/gentle.nice"
ionice -p "$(running)" >"$share/gentle.ionice"
wait

# Ends in order.
for signal in INT TERM; do
  slow "$signal"
  kill -s "$signal" "$(running)"
  wait
  slow "$signal.partial" --partial
  kill -s "$signal" "$(running)"
  wait
done

# Output files.
mkdir /tmp/out
echo precious >/tmp/precious
ln -s /tmp/precious /tmp/out/planted
told planted mminspect scan --format json --fail-on never -o /tmp/out/planted
cat /tmp/precious >"$share/precious"
ls -l /tmp/out >"$share/listing"
(umask 077; told private mminspect scan --format prometheus --fail-on never -o /tmp/out/private.prom)
stat -c '%U %a' /tmp/out/private.prom >"$share/private.stat"
cp /tmp/out/private.prom "$share/metrics.prom"

# Again and again.
told watch mminspect watch --interval 1s --count 2 --format ndjson
told watch-metrics mminspect watch --interval 1s --count 2 --format prometheus -o /tmp/out/watch.prom
cp /tmp/out/watch.prom "$share/watch.prom"
ls -A /tmp/out >"$share/left"

# Pictures.
cat /proc/zoneinfo >"$share/zoneinfo"
told map mminspect map --format json
told map-text mminspect map --width 80
told diff mminspect diff "$share/map.out" /proc/kcore

# Inside drgn.
cat >/tmp/session.py <<'END'
import mminspect
report = mminspect.scan(prog)
print(len(report.findings), report.target["kind"])
END
told drgn "$python" -m drgn -q -k /tmp/session.py
"""


@pytest.fixture(name="share", scope="module")
def share_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return what the script left in the shared directory."""
    kernel = kernel_or_skip("6.12")
    guest = LiveGuest(kernel, Job(SCRIPT), qemu_args=LAYOUTS["numa"].qemu_args)
    with started(guest, tmp_path_factory.mktemp("log") / "console") as session:
        session.finish()
        yield session.share


def status(share: Path, name: str) -> int:
    """Return the exit status of a command."""
    return int((share / f"{name}.status").read_text())


def report(share: Path, name: str) -> Any:
    """Return the report that a command printed."""
    text = (share / f"{name}.out").read_text()
    assert text, (share / f"{name}.err").read_text()
    return json.loads(text)


def fields(share: Path, name: str) -> dict[str, list[str]]:
    """Return the lines of a /proc/PID/status."""
    lines = (share / name).read_text().splitlines()
    return {line.split(":")[0]: line.split(":")[1].split() for line in lines if ":" in line}


def test_status(share: Path) -> None:
    """Findings of severity error make the status 1."""
    found = report(share, "first")
    assert status(share, "first") == 0
    assert found["summary"]["transient"] == 0
    assert status(share, "errors") == (1 if found["summary"]["by_severity"]["error"] else 0)
    assert (share / "first.err").read_text() == ""


def test_privileges_are_gone(share: Path) -> None:
    """While it reads, it is nobody and has no capability."""
    process = fields(share, "gentle.proc")
    assert {int(word) for word in (*process["Uid"], *process["Gid"])} == {NOBODY}
    assert process.get("Groups") == []
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(process[name][0], 16) == 0, name
    assert process["NoNewPrivs"] == ["1"]


def test_gentle(share: Path) -> None:
    """It is small, keeps to its rate, and gives way to other work."""
    assert int(fields(share, "gentle.proc")["VmHWM"][0]) < MOST_KIBIBYTES
    found = report(share, "gentle")
    # 16 MiB of memmap at 1 MiB a second.
    assert found["summary"]["elapsed_seconds"] > 15
    assert strangers(found, report(share, "first")) == []
    assert int((share / "gentle.nice").read_text()) > 0
    assert "idle" in (share / "gentle.ionice").read_text()


@pytest.mark.parametrize(("signal", "expected"), [("INT", 130), ("TERM", 143)])
def test_signals(share: Path, signal: str, expected: int) -> None:
    """A signal ends it with one line, or with what it has so far."""
    assert status(share, signal) == expected
    assert (share / f"{signal}.out").read_text() == ""
    assert len((share / f"{signal}.err").read_text().splitlines()) == 1
    partial, whole = report(share, f"{signal}.partial"), report(share, "first")
    assert status(share, f"{signal}.partial") == 0
    assert 0 < partial["summary"]["pages_examined"] < whole["summary"]["pages_examined"]
    assert "Traceback" not in (share / f"{signal}.partial.err").read_text()


def test_planted_link(share: Path) -> None:
    """A symbolic link at the output's place isn't followed."""
    assert (share / "precious").read_text() == "precious\n"
    listed = next(line for line in (share / "listing").read_text().splitlines() if line.endswith(" planted"))
    assert listed.startswith("-rw-r--r--")
    assert status(share, "planted") == 0


def test_output_has_the_callers_rights(share: Path) -> None:
    """The output belongs to the caller and keeps to its umask, and nothing else is left behind."""
    assert (share / "private.stat").read_text() == "root 600\n"
    assert (share / "left").read_text().split() == ["planted", "private.prom", "watch.prom"]


def test_watch(share: Path) -> None:
    """The first pass reports what is there, the second nothing."""
    assert status(share, "watch") == 0, (share / "watch.err").read_text()
    events = [json.loads(line) for line in (share / "watch.out").read_text().splitlines()]
    assert {event["event"] for event in events} == {"new"}
    assert len(events) == len(report(share, "first")["findings"])


@pytest.mark.parametrize("name", ["metrics.prom", "watch.prom"])
def test_metrics(share: Path, name: str) -> None:
    """The metrics parse, and count what the report has."""
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    families = {family.name: family for family in parser.text_string_to_metric_families((share / name).read_text())}
    found = report(share, "first")
    findings = families["mminspect_findings"]
    assert findings.type == "gauge"
    assert all(set(sample.labels) == {"rule", "severity", "node", "zone"} for sample in findings.samples)
    assert sum(sample.value for sample in findings.samples) == len(found["findings"])
    assert families["mminspect_pages_examined"].samples[0].value == found["summary"]["pages_examined"]
    assert families["mminspect_scan_seconds"].samples[0].value > 0
    assert families["mminspect_last_success_timestamp_seconds"].samples[0].value > 1e9


def test_inside_drgn(share: Path) -> None:
    """A drgn session can scan the running kernel without debuginfo."""
    assert status(share, "drgn") == 0, (share / "drgn.err").read_text()
    assert (share / "drgn.out").read_text().split() == [str(len(report(share, "first")["findings"])), "live"]


def test_pictures(share: Path) -> None:
    """A picture of a running kernel has as many free pages as the kernel says, but for what changed meanwhile."""
    for name in ("map", "map-text", "diff"):
        assert status(share, name) == 0, (share / f"{name}.err").read_text()
    found = report(share, "map")
    free = {number for number, name in enumerate(found["classes"]) if name.startswith("free ")}
    cells = [cell[found["columns"].index("classes")] for cell in found["cells"]]
    drawn = sum(pages for cell in cells for name, pages in zip(cell[::2], cell[1::2]) if name in free)
    told = sum(map(int, re.findall(r"nr_free_pages +(\d+)", (share / "zoneinfo").read_text())))
    assert abs(drawn - told) < told * 0.1
    present = sum(map(int, re.findall(r" present +(\d+)", (share / "zoneinfo").read_text())))
    assert 0 <= sum(sum(cell[1::2]) for cell in cells) - present < 1024
    assert max(map(len, (share / "map-text.out").read_text().splitlines())) <= 80
