# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A seccomp filter for a process that only reads files that it has open, and computes.

It refuses network, programs, other processes, the kernel's configuration, and every change to a file system. Files can
be opened for reading only. What it refuses fails with EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Mapping

# linux/seccomp.h, linux/bpf_common.h, linux/sched.h, asm-generic/ioctls.h.
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
_RET_KILL_PROCESS = 0x80000000
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_LOAD, _EQUAL, _NOT_BELOW, _ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# struct seccomp_data.
_NR, _ARCH, _ARGS = 0, 4, 16
_X32_BIT = 0x40000000
# Namespaces, but CLONE_NEWTIME, which clone() can't ask for.
_CLONE_NEW = 0x7E020000
# Both put input into a terminal.
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Looked at more closely, or asked for by this file alone.
_BY_ARGUMENT = {"seccomp", "open", "openat", "openat2", "clone", "clone3", "ioctl"}

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _refuse(number: int = errno.EPERM) -> Instruction:
    return _RETURN, 0, 0, _RET_ERRNO | number


def _argument(number: int) -> Instruction:
    """Load the low half of an argument. Flags have no more, and both architectures are little endian."""
    return _LOAD, 0, 0, _ARGS + 8 * number


def _when(number: int, body: list[Instruction]) -> Iterator[Instruction]:
    """Make what is done for one system call. It must end with a return."""
    yield _EQUAL, 0, len(body), number
    yield from body


def _open(flags: int) -> list[Instruction]:
    """Make what is done for an open: its flags are that argument."""
    allow = (_RETURN, 0, 0, _RET_ALLOW)
    return [_argument(flags), (_ANY, 0, 1, _WRITES), _refuse(), allow]


def program(audit_arch: int, numbers: Mapping[str, int]) -> bytes:
    """
    Make the filter.

    :param audit_arch: AUDIT_ARCH_* of the architecture.
    :param numbers: Its system calls, as in :mod:`mminspect.program.syscalls`.
    """
    allow = (_RETURN, 0, 0, _RET_ALLOW)
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, audit_arch),
        (_RETURN, 0, 0, _RET_KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
        (_NOT_BELOW, 0, 1, _X32_BIT),
        _refuse(),
    ]
    for name, number in numbers.items():
        if name not in _BY_ARGUMENT:
            lines += _when(number, [_refuse()])
    lines += _when(numbers["openat"], _open(2))
    if "open" in numbers:
        lines += _when(numbers["open"], _open(1))
    # Their flags are in memory. Without them the C library takes the older ones.
    for name in ("openat2", "clone3"):
        lines += _when(numbers[name], [_refuse(errno.ENOSYS)])
    lines += _when(numbers["clone"], [_argument(0), (_ANY, 0, 1, _CLONE_NEW), _refuse(), allow])
    terminal = [_argument(1), (_EQUAL, 1, 0, _TIOCSTI), (_EQUAL, 0, 1, _TIOCLINUX), _refuse(), allow]
    lines += _when(numbers["ioctl"], terminal)
    lines.append(allow)
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def restrict(audit_arch: int, numbers: Mapping[str, int]) -> str | None:
    """
    Put the filter on all threads of this process, for good. PR_SET_NO_NEW_PRIVS must be set.

    :return: Why it can't be had, ``None`` if it is there.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    code = program(audit_arch, numbers)
    data = _Program(len(code) // 8, code)
    flags = SECCOMP_FILTER_FLAG_TSYNC
    done = libc.syscall(numbers["seccomp"], SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(data))
    if done < 0:
        return os.strerror(ctypes.get_errno())
    return f"thread {done} can't have it" if done else None
