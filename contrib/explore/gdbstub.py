# SPDX-License-Identifier: LGPL-2.1-or-later
"""Talk to QEMU's gdb stub: breakpoints, registers, memory."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from collections.abc import Sequence

from contrib.kernels.errors import HarnessError

SECONDS = 20.0
PACKET = re.compile(rb"[^$]*\$([^#]*)#..", re.DOTALL)
PIECE = 1024


class StubError(HarnessError):
    """QEMU's gdb stub did not answer, or is gone."""


class Gdb:
    """
    A connection to a gdb stub.

    :param connection: A socket whose other end is QEMU's.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.buffer = b""

    def send(self, packet: str) -> None:
        """Send a packet."""
        data = packet.encode()
        try:
            self.socket.sendall(b"$" + data + b"#%02x" % (sum(data) & 0xFF))
        except OSError as error:
            raise StubError(f"QEMU's gdb stub is gone: {error}") from None

    def receive(self, seconds: float) -> str | None:
        """Return the next packet, or ``None`` if there is none in time."""
        end = time.monotonic() + seconds
        while not (match := PACKET.match(self.buffer)):
            try:
                if not select.select([self.socket], [], [], max(0.0, end - time.monotonic()))[0]:
                    return None
                data = self.socket.recv(1 << 16)
            except OSError as error:
                raise StubError(f"QEMU's gdb stub is gone: {error}") from None
            if not data:
                raise StubError("QEMU closed its gdb stub")
            self.buffer += data
        self.buffer = self.buffer[match.end() :]
        self.socket.sendall(b"+")
        return match.group(1).decode()

    def ask(self, packet: str) -> str:
        """Send a packet and return the answer."""
        self.send(packet)
        answer = self.receive(SECONDS)
        if answer is None:
            raise StubError(f"QEMU's gdb stub did not answer {packet[:20]}")
        return answer

    def set_breakpoint(self, address: int) -> None:
        """Stop the guest at an address."""
        if self.ask(f"Z0,{address:x},1") != "OK":
            raise StubError(f"QEMU can't stop at {address:#x}")

    def clear_breakpoint(self, address: int) -> None:
        """Don't stop at an address any more."""
        self.ask(f"z0,{address:x},1")

    def resume(self) -> None:
        """Let the guest run on."""
        self.send("c")

    def interrupt(self) -> None:
        """Stop the guest now."""
        self.socket.sendall(b"\x03")
        self.receive(SECONDS)

    def registers(self, names: Sequence[str]) -> dict[str, int]:
        """
        Return the general registers. In 32-bit mode, the upper halves are zero.

        :param names: What the first ones are called; each has 8 bytes.
        """
        data = bytes.fromhex(self.ask("g").replace("x", "0"))
        return dict(zip(names, struct.unpack_from(f"<{len(names)}Q", data)))

    def read(self, address: int, size: int) -> bytes:
        """Return memory at a virtual address; as much as there is."""
        data = b""
        while len(data) < size:
            piece = self.ask(f"m{address + len(data):x},{min(PIECE, size - len(data)):x}")
            if not piece or piece.startswith("E"):
                break
            data += bytes.fromhex(piece)
        return data

    def read_text(self, address: int, most: int = 256) -> str:
        """Return the string at a virtual address."""
        return self.read(address, most).split(b"\0", 1)[0].decode("latin-1")
