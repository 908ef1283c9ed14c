# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Give up the privileges that only opening the kernel's files needs, and run at low priority.

``/proc/kcore`` checks capabilities when it is opened, not when it is read. So everything after that runs without any.
"""

from __future__ import annotations

import ctypes
import os
import pwd

from mminspect.errors import MminspectError
from mminspect.program.arch import host

PR_SET_NO_NEW_PRIVS = 38
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
NICENESS = 10
IOPRIO_WHO_PROCESS = 1
IOPRIO_CLASS_IDLE = 3
IOPRIO_CLASS_SHIFT = 13


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def lower_priority() -> None:
    """Run when nothing else wants to: low CPU priority, idle I/O class."""
    os.nice(NICENESS)
    number = host().ioprio_set
    if number is not None:
        # The idle class is a wish; a kernel without it refuses.
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT)


def find_user(name: str) -> pwd.struct_passwd:
    """
    Look a user up.

    :raises MminspectError: if there is no such user.
    """
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise MminspectError(f"there is no user {name!r}; give another with --user") from None


def become(user: pwd.struct_passwd) -> None:
    """
    Change the user ID. Leaving user ID 0 clears the permitted and effective capabilities.

    :raises MminspectError: if it doesn't work.
    """
    try:
        if user.pw_uid != os.geteuid():
            os.setgroups([])
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as e:
        raise MminspectError(f"can't become user {user.pw_name}: {e.strerror}") from None


def drop_capabilities() -> str | None:
    """
    Give up every capability, and the right to get any by running a program.

    :return: Why it can't be done, ``None`` if it was.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return f"no_new_privs: {os.strerror(ctypes.get_errno())}"
    number = host().capset
    if number is None:
        return f"the number of capset() on {host().name} isn't known"
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    if libc.syscall(number, ctypes.byref(header), ctypes.byref(data)) != 0:
        return f"capset: {os.strerror(ctypes.get_errno())}"
    return None
