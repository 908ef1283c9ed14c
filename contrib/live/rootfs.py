# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's root file system: the machine's own, read-only through 9p, with a few places that differ."""

from __future__ import annotations

import shlex
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contrib.kernels.initrd import MARK

CHECKOUT = Path(__file__).resolve().parents[2]

ROOT_TAG = "hostroot"
SHARE_TAG = "share"
SHARE = "/run/share"
"""Where the guest sees the directory that it shares with the machine."""
SNAPSHOT = "/run/checkout"
"""Where the guest has its copy of this checkout. What changes on the machine meanwhile must not reach a guest, which
would see new and old parts of a file mixed."""
COPIED = ("mminspect", "contrib")

MODULES = ("virtio_pci", "9pnet_virtio", "9p")
NINE_P = "trans=virtio,version=9p2000.L,msize=1048576"
COVERED = {Path("/tmp"): "1777", Path("/run"): "755"}
"""Directories that get a tmpfs in every guest, with its mode."""

STATUS = f"{MARK} STATUS"
OUTPUT = "output"
SCRIPT = "script"

PRELUDE = f"""# What scripts may use.
share={SHARE}
# pause NAME: wait until the other side says go.
pause() {{
  : >"$share/wait.$1"
  until [ -e "$share/go.$1" ]; do sleep 0.2; done
}}
"""
COMMAND = """#!/bin/sh
exec "$python" -m mminspect "$@"
"""


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that lie below no other of them.

    >>> [str(path) for path in outermost([Path("/a/b"), Path("/c"), Path("/a")])]
    ['/a', '/c']
    """
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not any(other in path.parents for other in kept):
            kept.append(path)
    return kept


def needed_paths() -> list[Path]:
    """Return the directories that the interpreter and this checkout need."""
    executable = Path(sys.executable)
    named = [CHECKOUT, executable.parent, Path(sys.prefix), Path(sys.base_prefix), *map(Path, sys.path)]
    found = [path for path in (*named, executable.resolve().parent) if path.is_absolute() and path.is_dir()]
    return outermost([*found, *(path.resolve() for path in found)])


def is_closed(directory: Path) -> bool:
    """Return whether a directory lets only its owner through."""
    return not directory.stat().st_mode & stat.S_IXOTH


def cover_of(path: Path, open_all: bool) -> Path | None:
    """Return the directory above a path that hides it from the guest, or, with open_all, from its users."""
    for parent in reversed(path.parents):
        if parent in COVERED or (open_all and is_closed(parent)):
            return parent
    return None


def cover_lines(paths: Sequence[Path], open_all: bool) -> list[str]:
    """Return the shell lines that put a tmpfs over some directories and show the needed paths in them again.

    With open_all, a user of the guest that is not root reaches an interpreter that lies in root's home. Otherwise
    such directories stay closed: mminspect, which starts as root and goes on as another user, has to cope.
    """
    behind: dict[Path, list[Path]] = {cover: [] for cover in COVERED}
    for path in paths:
        cover = cover_of(path, open_all)
        if cover is not None:
            behind.setdefault(cover, []).append(path)
    lines = []
    for cover, hidden in behind.items():
        lines.append(f"mount -t tmpfs -o mode={COVERED.get(cover, '755')} none {shlex.quote(f'/new{cover}')}")
        for path in hidden:
            place = shlex.quote(f"/new{path}")
            lines += [f"mkdir -p {place}", f"mount -o bind {shlex.quote(f'/host{path}')} {place}"]
    return lines


def mount_lines(paths: Sequence[Path], open_all: bool) -> list[str]:
    """Return the shell lines of init that mount the root file system on /new."""
    return [
        "mkdir /host /new",
        f"mount -t 9p -o {NINE_P},ro,cache=loose {ROOT_TAG} /host",
        "mount -o bind /host /new",
        *cover_lines(paths, open_all),
        "mount -t proc proc /new/proc",
        "mount -t sysfs sys /new/sys",
        "mount -t securityfs security /new/sys/kernel/security 2>/dev/null",
        "mount -t devtmpfs dev /new/dev",
        f"mkdir /new{SHARE}",
        f"mount -t 9p -o {NINE_P},cache=none {SHARE_TAG} /new{SHARE}",
        f"cp -r /new{SHARE}/checkout /new{SNAPSHOT}",
    ]


@dataclass(frozen=True)
class Job:
    """What a guest runs: a shell script, as root or as another user."""

    script: str
    user: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the script with the functions that it may use."""
        return PRELUDE + self.script + "\n"


def job_environment(job: Job) -> dict[str, str]:
    """Return the environment of the script."""
    return {
        "PATH": f"{SHARE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": SNAPSHOT,
        "python": sys.executable,
        **job.environment,
    }


def run_lines(job: Job) -> list[str]:
    """Return the shell lines of init that run the script and print what it said and its status."""
    words = ["chroot", "/new", "/usr/bin/env", "-i"]
    words += [f"{name}={value}" for name, value in job_environment(job).items()]
    if job.user:
        words += ["setpriv", f"--reuid={job.user}", f"--regid={job.user}", "--clear-groups"]
    words += ["/bin/sh", f"{SHARE}/{SCRIPT}"]
    output = f"/new{SHARE}/{OUTPUT}"
    return [
        f"{shlex.join(words)} </dev/null >{output} 2>&1",
        "status=$?",
        f"cp {output} /tmp/section",
        f"show {OUTPUT}",
        f'echo "{STATUS} $status"',
    ]


def init_lines(job: Job) -> list[str]:
    """Return the shell lines of init."""
    return [*mount_lines(needed_paths(), bool(job.user)), *run_lines(job)]


def fill_share(share: Path, job: Job, files: Mapping[str, str]) -> None:
    """Put the script, the command mminspect, a copy of the checkout and more files into the shared directory."""
    (share / SCRIPT).write_text(job.text())
    (share / "bin").mkdir()
    command = share / "bin" / "mminspect"
    command.write_text(COMMAND)
    command.chmod(0o755)
    for name in COPIED:
        shutil.copytree(CHECKOUT / name, share / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files.items():
        (share / name).write_text(text)


def share_args(share: Path) -> list[str]:
    """Return QEMU's arguments for the two shared directories."""
    options = "security_model=none,multidevs=remap"
    place = str(share).replace(",", ",,")
    return [
        "-virtfs",
        f"local,path=/,mount_tag={ROOT_TAG},readonly=on,{options}",
        "-virtfs",
        f"local,path={place},mount_tag={SHARE_TAG},{options}",
    ]
