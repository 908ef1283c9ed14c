# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The memory of a vmcore without the copy that drgn makes of what it reads.

That copy takes as long as all the checks together. How to do without depends on the file's format:
:mod:`mminspect.program.mapped` and :mod:`mminspect.program.kdump`.
"""

from __future__ import annotations

import abc
import os
import weakref
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program

from mminspect import signals

# Bytes at each end that are compared with what drgn reads.
_COMPARED = 64
Bytes = npt.NDArray[np.uint8]


class DirectMemory(abc.ABC):
    """
    Reads memory of a vmcore, as far as it can do so exactly.

    :param prog: The program that has the vmcore open. What is laid over its memory must be in the vmcore's headers.
    :param fd: The vmcore; kept open through a descriptor of its own.
    :cvar at_once: Bytes that are best read at once.
    """

    at_once: ClassVar[int]

    def __init__(self, prog: Program, fd: int) -> None:
        self._prog = prog
        self._file = open(os.dup(fd), "rb", buffering=0)  # noqa: SIM115
        self._size = os.fstat(fd).st_size
        weakref.finalize(self, signals.note_size(self._file.fileno(), self._size))

    def is_whole(self) -> bool:
        """Tell whether the file is still as long as it was when it was opened."""
        return os.fstat(self._file.fileno()).st_size >= self._size

    @abc.abstractmethod
    def holds(self, address: int) -> bool:
        """Tell whether the memory at an address can be read."""

    @abc.abstractmethod
    def _data(self, address: int, size: int) -> Bytes | None:
        """Read memory; ``None`` if drgn must."""

    def read(self, address: int, size: int) -> Bytes | None:
        """
        Read memory.

        :param address: Virtual address.
        :param size: In bytes.
        :return: The bytes. ``None`` if drgn must read them.
        """
        if size < 2 * _COMPARED or not self.is_whole():
            return None
        data = self._data(address, size)
        if data is None:
            return None
        try:
            first = self._prog.read(address, _COMPARED)
            last = self._prog.read(address + size - _COMPARED, _COMPARED)
        except FaultError:
            return None
        return data if data[:_COMPARED].tobytes() == first and data[-_COMPARED:].tobytes() == last else None

    def place(self, address: int, size: int) -> int | None:
        """
        Find memory in the file, for those who read many small pieces of it.

        :return: Its offset; ``None`` if drgn must read it.
        """
        return None

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._file.fileno()
