# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service under a real systemd: its sandbox lets the scan through, and not much more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrib.live.rootfs import SHARE, SNAPSHOT, Job
from contrib.live.session import LiveGuest, started
from contrib.live.tests.conftest import kernel_or_skip

pytestmark = [pytest.mark.vm, pytest.mark.slow]
SYSTEMD = Path("/usr/lib/systemd/systemd")
CAPABILITIES = (1, 6, 7, 17)
"""CAP_DAC_OVERRIDE, CAP_SETGID, CAP_SETUID, CAP_SYS_RAWIO."""
METRICS = "/run/textfile/mminspect.prom"

# The interpreter may lie in root's home, so ProtectHome= is off here. systemd runs in a PID namespace, where it needs
# no boot of a whole system. The basic targets are empty, since the units of this machine are of no interest.
SCRIPT = rf"""
units=/run/systemd/system
mkdir -p $units/mminspect.service.d /run/textfile
mount -t cgroup2 none /sys/fs/cgroup
cp {SNAPSHOT}/contrib/systemd/mminspect.service $units
cat >$units/mminspect.service.d/try.conf <<END
[Service]
Environment=MMINSPECT_TEXTFILE={METRICS} python=$python PYTHONPATH=$PYTHONPATH
ReadWritePaths=/run/textfile
ProtectHome=no
StandardOutput=append:{SHARE}/out
StandardError=append:{SHARE}/err
ExecStart=
ExecStart={SHARE}/bin/mminspect scan --format prometheus --fail-on never -o \${{MMINSPECT_TEXTFILE}}
ExecStartPost=-/bin/sh -c 'ls /sys/class/net >{SHARE}/net'
ExecStartPost=-/bin/sh -c 'cat /proc/self/status >{SHARE}/proc'
ExecStartPost=-/bin/sh -c 'touch /sys/kernel/mm/outside; echo 1 >/proc/sys/vm/compact_memory'
END
cat >$units/try.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
StandardOutput=append:{SHARE}/result
ExecStart=-/usr/bin/systemctl start mminspect.service
ExecStart=/usr/bin/systemctl show mminspect.service -p Result -p ExecMainStatus
ExecStopPost=/usr/bin/systemctl --force exit
END
for target in sysinit basic; do printf '[Unit]\nDescription=empty\n' >$units/$target.target; done
printf '[Unit]\nDefaultDependencies=no\nWants=try.service\n' >$units/try.target
timeout 300 unshare --pid --fork --kill-child --mount --mount-proc env container=try {SYSTEMD} --system \
  --unit=try.target --log-target=console
cp {METRICS} "$share/metrics"
stat -c '%U %a' {METRICS} >"$share/stat"
"""


@pytest.fixture(name="share", scope="module")
def share_fixture() -> Iterator[Path]:
    """Return what the script left in the shared directory."""
    if not SYSTEMD.exists() or shutil.which("unshare") is None:
        pytest.skip("systemd is not installed")
    with started(LiveGuest(kernel_or_skip("6.12"), Job(SCRIPT))) as session:
        result = session.finish()
        print(result.output)
        yield session.share


def test_scan_in_the_sandbox(share: Path) -> None:
    """The service succeeds and writes the metrics, readable for node_exporter."""
    assert (share / "err").read_text().count("mminspect:") == 0
    assert sorted((share / "result").read_text().split()) == ["ExecMainStatus=0", "Result=success"]
    text = (share / "metrics").read_text()
    assert "mminspect_last_success_timestamp_seconds " in text
    assert "mminspect_pages_unreadable 0\n" in text
    assert (share / "stat").read_text() == "root 644\n"


def test_sandbox(share: Path) -> None:
    """There is no network, the kernel's settings can't be changed, and only four capabilities are left."""
    assert (share / "net").read_text().split() == ["lo"]
    refused = (share / "err").read_text()
    for path in ("/sys/kernel/mm/outside", "/proc/sys/vm/compact_memory"):
        assert any(path in line and "Read-only" in line for line in refused.splitlines()), refused
    process = dict(line.split(":", 1) for line in (share / "proc").read_text().splitlines())
    assert int(process["CapBnd"], 16) == sum(1 << number for number in CAPABILITIES)
    assert (process["NoNewPrivs"].strip(), process["Seccomp"].strip()) == ("1", "2")
