# SPDX-License-Identifier: LGPL-2.1-or-later
"""A server that speaks QMP as QEMU does. Its guest's memory is memory of this process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": ["oob"]}}
# What QEMU 7.2 prints, but for the RAM.
FLAT_VIEW = """FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, ram): not memory
FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000f0000-00000000000fffff (prio 0, rom): pc.ram @00000000000f0000
{ram}
  00000000fe000000-00000000fe0fffff (prio 0, ramd): 0000:00:02.0 BAR 0 mmaps[0]

FlatView #2
 AS "VGA", root: bus master container
 Root memory region: (none)
  0000000000000000-0000000000000fff (prio 0, ram): not memory either
"""


class FakeQemu:
    """
    QEMU, as far as its monitor shows it.

    :param path: Path of the socket.
    :ivar state: Of the guest.
    :ivar ram: Physical address, bytes, and where it is in this process.
    :ivar calls: The commands that came.
    :ivar answers: What is answered in place of what a well-behaved QEMU would; bytes are sent as they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = "running"
        self.architecture = "x86_64"
        self.ram: list[tuple[int, int, int]] = []
        self.registers = ""
        self.calls: list[str] = []
        self.answers: dict[str, Callable[[], Any]] = {}
        self.greeting: bytes = json.dumps(GREETING).encode() + b"\r\n"
        self._clients: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Be gone, as QEMU that was killed."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def event(self, name: str) -> None:
        """Send an event to the client that is there."""
        message = {"timestamp": {"seconds": 0, "microseconds": 0}, "event": name}
        self._clients[-1].sendall(json.dumps(message).encode() + b"\r\n")

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._clients.append(client)
            with contextlib.suppress(OSError, ValueError), client:
                client.sendall(self.greeting)
                for line in client.makefile("rb"):
                    self._answer(client, json.loads(line))

    def _answer(self, client: socket.socket, message: dict[str, Any]) -> None:
        command, arguments = message["execute"], message.get("arguments", {})
        self.calls.append(command)
        if command in self.answers:
            reply = self.answers[command]()
            if isinstance(reply, bytes):
                client.sendall(reply)
                return
        else:
            reply = {"return": self._do(command, arguments)}
        client.sendall(json.dumps({**reply, "id": message.get("id")}).encode() + b"\r\n")

    def _do(self, command: str, arguments: dict[str, Any]) -> Any:
        if command == "stop":
            self.state = "paused"
            self.event("STOP")
        elif command == "cont":
            self.state = "running"
            self.event("RESUME")
        elif command == "query-status":
            return {"status": self.state, "running": self.state == "running"}
        elif command == "query-target":
            return {"arch": self.architecture}
        elif command == "query-cpus-fast":
            return [{"cpu-index": 0, "thread-id": os.getpid()}]
        elif command == "human-monitor-command":
            return self._monitor(arguments["command-line"])
        return {}

    def _monitor(self, line: str) -> str:
        if line == "info registers":
            return self.registers
        if line == "info mtree -f":
            ram = [f"  {start:016x}-{start + size - 1:016x} (prio 0, ram): pc.ram\r" for start, size, _ in self.ram]
            return FLAT_VIEW.format(ram="\n".join(ram))
        wanted = int(line.split()[-1], 16)
        for start, size, at in self.ram:
            if start <= wanted < start + size:
                return f"Host virtual address for {wanted:#x} (pc.ram) is {at + wanted - start:#x}\r\n"
        return f"No memory is mapped at address {wanted:#x}\r\n"


@contextlib.contextmanager
def fake_qemu(path: Path) -> Iterator[FakeQemu]:
    """Have a QEMU for a while."""
    qemu = FakeQemu(path)
    try:
        yield qemu
    finally:
        qemu.close()
