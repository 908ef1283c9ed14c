# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write into a running guest's memory through QEMU's gdb stub."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path
from typing import NamedTuple

from contrib.kernels.errors import HarnessError

SECONDS = 30.0
# Bytes of memory in one packet; QEMU takes packets of 4096 characters.
PIECE = 1024


class Poke(NamedTuple):
    """Bytes to write, at a kernel virtual address."""

    address: int
    data: bytes


def parse_poke(words: str) -> Poke:
    """Read "ADDRESS BYTES [TIMES]", address and bytes hexadecimal."""
    try:
        address, data, *times = words.split()
        return Poke(int(address, 16), bytes.fromhex(data) * int(times[0] if times else "1"))
    except ValueError:
        raise HarnessError(f"the guest asks to write '{words}', which is not ADDRESS BYTES [TIMES]") from None


class Stub:
    """A connection to QEMU's gdb stub. The guest stands still while it exists."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.buffer = b""
        try:
            self.socket.connect(str(path))
        except OSError as error:
            self.socket.close()
            raise HarnessError(f"cannot talk to QEMU's gdb stub: {error}") from None

    def request(self, packet: str) -> str:
        """Send a packet and return the answer."""
        data = packet.encode()
        try:
            self.socket.sendall(b"$" + data + b"#%02x" % (sum(data) & 0xFF))
            answer = self.receive()
            # QEMU also tells that the guest has stopped.
            while answer.startswith("T"):
                answer = self.receive()
        except OSError as error:
            raise HarnessError(f"QEMU's gdb stub did not answer: {error}") from None
        return answer

    def receive(self) -> str:
        """Return the next packet."""
        while not (match := re.match(rb"[^$]*\$([^#]*)#..", self.buffer)):
            received = self.socket.recv(4096)
            if not received:
                raise HarnessError("QEMU closed its gdb stub")
            self.buffer += received
        self.buffer = self.buffer[match.end() :]
        self.socket.sendall(b"+")
        return match.group(1).decode()

    def write(self, poke: Poke) -> None:
        """Write memory."""
        for start in range(0, len(poke.data), PIECE):
            piece = poke.data[start : start + PIECE]
            answer = self.request(f"M{poke.address + start:x},{len(piece):x}:{piece.hex()}")
            if answer != "OK":
                raise HarnessError(f"QEMU cannot write to {poke.address + start:#x}: {answer}")

    def close(self) -> None:
        """Detach; the guest goes on."""
        with contextlib.suppress(HarnessError):
            self.request("D")
        self.socket.close()


def poke(path: Path, pokes: list[Poke]) -> None:
    """Write into a guest's memory."""
    with contextlib.closing(Stub(path)) as stub:
        for item in pokes:
            stub.write(item)
