# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The QEMU Machine Protocol: a line of JSON for each command, its reply and each event.

Nothing that comes over the socket is trusted: lines and times have a limit, and whoever asks checks what a reply is.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from mminspect.errors import TargetError
from mminspect.program import magic

# The longest line. "info mtree -f" of a machine with a thousand devices has a megabyte.
MAX_LINE = 16 << 20
# Seconds for each reply. QEMU answers at once, unless something blocks its main loop.
SECONDS = 10.0
PIECE = 1 << 16
MAX_PATH = 107
MAX_TEXT = 200
_TCP = re.compile(r"[^/]*:[0-9]+")
# struct ucred.
_UCRED = struct.Struct("iII")


class Range(NamedTuple):
    """
    RAM of a guest.

    :ivar start: Physical address.
    :ivar size: In bytes.
    :ivar at: Where QEMU has it in its memory.
    """

    start: int
    size: int
    at: int


class Qmp:
    """
    A connection to QEMU's monitor. QEMU has one client at a time on each socket.

    :param path: Path of the socket.
    :raises TargetError: if nobody is there who speaks QMP.
    :ivar resumed: How often an event said that the guest was resumed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._data = b""
        self._number = 0
        self.resumed = 0
        self._socket = _connect(path)
        try:
            greeting = self._receive(
                time.monotonic() + SECONDS,
                "nobody answers on this socket: another client has it, such as libvirt, or it is no QEMU's; start QEMU "
                "with one more: -qmp unix:PATH,server=on,wait=off",
            )
            if not isinstance(greeting.get("QMP"), dict):
                raise self._error("not QMP; give the path that QEMU has in -qmp unix:PATH,server=on,wait=off")
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _error(self, text: str) -> TargetError:
        return TargetError(f"{self._path}: {text}")

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection, so that QEMU can have another client."""
        self._socket.close()

    @property
    def peer(self) -> tuple[int, int]:
        """The process that listens on the socket, as far as it can be seen from here, and its user."""
        pid, uid, _ = _UCRED.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return pid, uid

    def _receive(self, deadline: float, late: str) -> Mapping[str, Any]:
        """
        Get the next message.

        :param late: What to say if there is none in time.
        """
        while b"\n" not in self._data:
            left = deadline - time.monotonic()
            try:
                self._socket.settimeout(max(left, 0.001))
                piece = self._socket.recv(PIECE)
            except socket.timeout:
                raise self._error(late) from None
            except OSError as e:
                raise self._error(f"QEMU can't be asked: {e.strerror or e}") from None
            if not piece:
                raise self._error("QEMU closed the connection")
            self._data += piece
            if len(self._data) > MAX_LINE:
                raise self._error("more than 16 MiB in one line; this is not QMP")
        line, _, self._data = self._data.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise self._error("not QMP; give the path that QEMU has in -qmp unix:PATH,server=on,wait=off") from None
        return message if isinstance(message, dict) else {}

    def execute(self, command: str, **arguments: object) -> Any:
        """
        Run a command.

        :return: What QEMU returns.
        :raises TargetError: if it refuses, or doesn't answer.
        """
        self._number += 1
        message = {"execute": command, "arguments": arguments, "id": self._number}
        try:
            self._socket.settimeout(SECONDS)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as e:
            raise self._error(f"QEMU can't be asked: {e.strerror or e}") from None
        deadline = time.monotonic() + SECONDS
        while True:
            reply = self._receive(deadline, f"QEMU does not answer {command} within {SECONDS:.0f} s; it hangs")
            self._note(reply)
            if reply.get("id") != self._number:
                continue
            if "return" in reply:
                return reply["return"]
            error = reply.get("error")
            why = error.get("desc") if isinstance(error, dict) else None
            raise self._error(f"QEMU refuses {command}: {magic.plain(str(why).encode(), MAX_TEXT)}")

    def _note(self, message: Mapping[str, Any]) -> None:
        if message.get("event") == "RESUME":
            self.resumed += 1

    def drain(self) -> bool:
        """Look at the events that have come; tell whether QEMU is still there."""
        self._socket.settimeout(0)
        is_there = True
        try:
            while is_there and len(self._data) < MAX_LINE:
                piece = self._socket.recv(PIECE)
                is_there = bool(piece)
                self._data += piece
        except BlockingIOError:
            pass
        except OSError:
            is_there = False
        while b"\n" in self._data:
            self._note(self._receive(time.monotonic(), ""))
        return is_there

    def monitor(self, line: str) -> str:
        """Run a command of the human monitor, for what QMP doesn't tell, and get its text."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def status(self) -> str:
        """Get the state of the guest: ``running``, ``paused``, ``internal-error`` and others."""
        reply = self.execute("query-status")
        return str(reply.get("status")) if isinstance(reply, dict) else ""

    def architecture(self) -> str:
        """Get QEMU's name of the guest's architecture."""
        reply = self.execute("query-target")
        return str(reply.get("arch")) if isinstance(reply, dict) else ""

    def threads(self) -> list[int]:
        """Get the thread IDs of the guest's CPUs, as QEMU sees them."""
        reply = self.execute("query-cpus-fast")
        cpus = reply if isinstance(reply, list) else []
        found = [cpu.get("thread-id") for cpu in cpus if isinstance(cpu, dict)]
        return [number for number in found if isinstance(number, int)]

    def ram(self) -> list[Range]:
        """Get the guest's RAM. Memory of devices is no part of it."""
        ranges = []
        for start, size in parse_flat_view(self.monitor("info mtree -f")):
            # Some text, and the address in the end.
            words = self.monitor(f"gpa2hva {start:#x}").split()
            try:
                ranges.append(Range(start, size, int(words[-1], 16)))
            except (ValueError, IndexError):
                continue
        return ranges


def _connect(path: str) -> socket.socket:
    if len(path.encode(errors="surrogateescape")) > MAX_PATH:
        raise TargetError(f"{path}: longer than the path of a socket can be")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(SECONDS)
        connection.connect(path)
    except OSError as e:
        connection.close()
        what = e.strerror or str(e)
        if _TCP.fullmatch(path):
            what = "give the path of a Unix socket: a guest is read through QEMU's process on this machine"
        elif e.errno == errno.ECONNREFUSED:
            what = "not a socket, or nobody listens on it: QEMU has ended"
        raise TargetError(f"{path}: {what}") from None
    return connection


def parse_flat_view(text: str) -> list[tuple[int, int]]:
    """
    Find RAM in the text of ``info mtree -f``.

    :return: (physical address, bytes) of each range of the address space "memory".
    """
    found: list[tuple[int, int]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("FlatView"):
            if inside:
                break
            continue
        if line.strip().startswith('AS "memory"'):
            inside = True
        match = _RAM.fullmatch(line) if inside else None
        if match is not None:
            start, last = int(match[1], 16), int(match[2], 16)
            if start <= last:
                found.append((start, last + 1 - start))
    return found


# What a device has mapped for itself is "ramd", ROM "rom" and "romd".
_RAM = re.compile(r"\s*([0-9a-f]{1,16})-([0-9a-f]{1,16}) \(prio -?[0-9]+, (?:nv-)?ram\): .*")
