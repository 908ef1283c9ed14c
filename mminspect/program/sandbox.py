# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read a vmcore without power.

Whatever a damaged or malicious vmcore makes of the code that reads it, that code can use the files that are open, read
the program's own files and debugging information, and nothing else: no other user's files, no network, no programs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mminspect.errors import MminspectError
from mminspect.program import landlock, privileges, seccomp
from mminspect.program.arch import host

OFF = "off"
AUTO = "auto"
REQUIRE = "require"
MODES = (AUTO, REQUIRE, OFF)

# Where drgn looks for debugging information and where libraries and their data are.
READABLE = ("/usr", "/lib", "/lib64", "/etc", "/boot", "/sys/kernel/btf")
GIB = 1 << 30
# Private memory. A scan takes 0.1 GiB, drgn's index of a vmlinux up to 1 GiB.
MAX_DATA = 8 * GIB
# Address space besides what the vmcore takes, which is mapped.
MAX_ADDRESS_SPACE = 64 * GIB
# A file that is written: what is unpacked, and a report.
MAX_FILE = 256 * GIB
# How many times the size of a compressed vmcore that of an honest one can be.
MAX_RATIO = 64
# CPU time: what a scan of small files may take, and what each second of it reads at least.
MAX_SECONDS = 3600
BYTES_PER_SECOND = 1 << 20
LAST_SECONDS = 10


class Limits(NamedTuple):
    """
    What a process may take, at most.

    :ivar address_space: Bytes.
    :ivar file_size: Bytes of each file that it writes.
    :ivar seconds: CPU time, ``None`` for one that runs for good.
    """

    address_space: int
    file_size: int
    seconds: int | None


def limits_for(sizes: Iterable[int], forever: bool) -> Limits:
    """
    Get limits with room for honest work.

    :param sizes: Of the files that are read.
    :param forever: Whether the process runs until it is told to end.
    """
    total = sum(sizes)
    written = max(MAX_FILE, MAX_RATIO * total)
    seconds = None if forever else MAX_SECONDS + MAX_RATIO * total // BYTES_PER_SECOND
    return Limits(MAX_ADDRESS_SPACE + 2 * (written + total), written, seconds)


def everybody_reads(paths: Iterable[str]) -> bool:
    """Tell whether files can be read by every user: a virtual environment in root's home can't."""
    for path in paths:
        path = os.path.realpath(path)
        if not os.stat(path).st_mode & 0o004:
            return False
        while path != "/":
            path = os.path.dirname(path)
            if not os.stat(path).st_mode & 0o001:
                return False
    return True


def enter(user: pwd.struct_passwd | None, readable: Iterable[str], limits: Limits) -> list[str]:
    """
    Give up, for good and for all processes that are started later, what reading vmcores doesn't need.

    Call :func:`mminspect.program.files.prepare` first: no file can be opened for writing from then on.

    :param user: User to become, ``None`` to keep the user ID.
    :param readable: Files and directories that can still be opened for reading, besides :data:`READABLE`.
    :return: What can't be had, each with the reason.
    """
    missing = list(_limit(limits))
    ruleset = None
    with _noted(missing, "Landlock"):
        ruleset = landlock.Ruleset()
        ruleset.allow((*READABLE, *_own_files(), *readable), landlock.READ_FILE | landlock.READ_DIR)
    if user is not None:
        with _noted(missing, "another user"):
            privileges.become(user)
    reason = privileges.drop_capabilities()
    if reason is not None:
        missing.append(f"no capabilities ({reason})")
    if ruleset is not None:
        with _noted(missing, "Landlock"):
            ruleset.restrict_self()
    arch = host()
    if arch.audit_arch is None:
        missing.append(f"seccomp (the system calls of {arch.name} aren't known)")
    else:
        reason = seccomp.restrict(arch.audit_arch, arch.syscalls)
        if reason is not None:
            missing.append(f"seccomp ({reason})")
    return missing


@contextlib.contextmanager
def _noted(missing: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, MminspectError) as e:
        missing.append(f"{what} ({e.strerror if isinstance(e, OSError) else e})")


def _limit(limits: Limits) -> Iterator[str]:
    wanted = [
        (resource.RLIMIT_AS, limits.address_space, "address space"),
        (resource.RLIMIT_DATA, MAX_DATA, "memory"),
        (resource.RLIMIT_FSIZE, limits.file_size, "file size"),
        (resource.RLIMIT_CORE, 0, "core dumps"),
    ]
    if limits.seconds is not None:
        wanted.append((resource.RLIMIT_CPU, limits.seconds, "CPU time"))
    for number, value, name in wanted:
        try:
            soft, hard = resource.getrlimit(number)
            # -1 is no limit.
            low = min([value, *(limit for limit in (soft, hard) if limit >= 0)])
            # What runs out of CPU time has a moment to say so.
            high = low + LAST_SECONDS if number == resource.RLIMIT_CPU else low
            resource.setrlimit(number, (low, high if hard < 0 else min(high, hard)))
        except (OSError, ValueError, OverflowError) as e:
            yield f"a limit of {name} ({e})"


def _own_files() -> Iterator[str]:
    """Get where the program's own files are, and those of Python and of other packages."""
    yield sys.prefix
    yield sys.base_prefix
    yield from (path for path in sys.path if path.rstrip("/").endswith("-packages"))
    for name in ("mminspect", "drgn", "numpy", "click"):
        module = sys.modules.get(name)
        if module is not None and module.__file__ is not None:
            yield os.path.dirname(module.__file__)
