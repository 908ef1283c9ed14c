# SPDX-License-Identifier: LGPL-2.1-or-later
"""Landlock: what a process can reach of the file system, of the network and of other processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
# linux/landlock.h.
READ_FILE = 1 << 2
READ_DIR = 1 << 3
# How many kinds of access to files each version of Landlock knows.
_ACCESS_BITS = (13, 14, 15, 15, 16)
_NET_BIND_AND_CONNECT_TCP = 3
_SCOPE_SOCKETS_AND_SIGNALS = 3


class Ruleset:
    """
    Allows nothing but what is added.

    :raises OSError: if this kernel has no Landlock.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        version = self._call(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
        self._handled = (1 << _ACCESS_BITS[min(version, len(_ACCESS_BITS)) - 1]) - 1
        fields = [self._handled]
        if version >= 4:
            fields.append(_NET_BIND_AND_CONNECT_TCP)
        if version >= 6:
            fields.append(_SCOPE_SOCKETS_AND_SIGNALS)
        attributes = struct.pack(f"{len(fields)}Q", *fields)
        self._fd = self._call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)

    def _call(self, *arguments: object) -> int:
        done = int(self._libc.syscall(*arguments))
        if done < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return done

    def allow(self, paths: Iterable[str], access: int) -> None:
        """Allow access to files and to all below directories; paths that aren't there are passed over."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    allowed = access & self._handled
                    if not stat.S_ISDIR(os.fstat(fd).st_mode):
                        allowed &= ~READ_DIR
                    self._call(_ADD_RULE, self._fd, _RULE_PATH_BENEATH, struct.pack("=Qi", allowed, fd), 0)
                finally:
                    os.close(fd)

    def restrict_self(self) -> None:
        """
        Restrict this thread and those that it starts, for good. PR_SET_NO_NEW_PRIVS must be set.

        :raises OSError: if that doesn't work.
        """
        self._call(_RESTRICT_SELF, self._fd, 0)
        os.close(self._fd)
