# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Symbols of a kernel that is not running yet: from System.map, or from kallsyms inside the image.

The image doesn't say where kallsyms is. Its table of tokens gives it away: the digits are tokens of their own. The
other tables lie beside it, in the order of ``scripts/kallsyms.c``.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contrib.explore.cpu import Cpu
from contrib.explore.image import Image, Segment
from contrib.kernels.errors import HarnessError

TOKENS = 256
DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
MAX_TOKEN = 64
MAX_SYMBOLS = 1 << 20
# A marker is written for so many names.
NAMES_PER_MARKER = 256
MIN_MARKERS = 16
PROBED = 100
MAX_TEXT = 1 << 28
LINE = re.compile(rb"^([0-9a-f]{8,16}) [A-TV-Za-tv-z] (\S+)$", re.MULTILINE)


class Symbols:
    """
    The addresses of a kernel.

    :param addresses: Addresses by name.
    """

    def __init__(self, addresses: Mapping[str, int]) -> None:
        self.addresses = dict(addresses)
        pairs = sorted((address, name) for name, address in self.addresses.items())
        self._sorted = [address for address, _ in pairs]
        self._names = [name for _, name in pairs]

    def __contains__(self, name: str) -> bool:
        return name in self.addresses

    def get(self, name: str) -> int | None:
        """Return the address of a symbol, or ``None``."""
        return self.addresses.get(name)

    def need(self, name: str) -> int:
        """
        Return the address of a symbol.

        :raises HarnessError: if there is none.
        """
        if name not in self.addresses:
            raise HarnessError(f"the kernel has no symbol {name}; give its System.map or its vmlinux")
        return self.addresses[name]

    def place(self, text: str) -> int:
        """
        Return the address of a symbol, or of ``SYMBOL+0xOFFSET``.

        :raises HarnessError: if there is no such symbol, or the offset is no number.
        """
        name, plus, offset = text.partition("+")
        try:
            return self.need(name) + (int(offset, 16) if plus else 0)
        except ValueError:
            raise HarnessError(f"{text}: need SYMBOL or SYMBOL+0xOFFSET") from None

    def name(self, address: int) -> str:
        """Return the symbol that an address belongs to, or the address."""
        index = bisect_right(self._sorted, address) - 1
        if index < 0 or address - self._sorted[index] > 1 << 20:
            return hex(address)
        return self._names[index]

    def size(self, name: str) -> int:
        """Return how far it is from a symbol to the next one."""
        address = self.need(name)
        index = bisect_right(self._sorted, address)
        return self._sorted[index] - address if index < len(self._sorted) else 0


def read_system_map(path: Path) -> Symbols:
    """
    Return the symbols in a System.map, or what nm prints.

    :raises HarnessError: if it can't be read or has none.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: {error.strerror}") from None
    addresses: dict[str, int] = {}
    for match in LINE.finditer(text):
        addresses.setdefault(match.group(2).decode("ascii", "replace"), int(match.group(1), 16))
    if "panic" not in addresses:
        raise HarnessError(f"{path}: not the System.map of a kernel")
    return Symbols(addresses)


def _tokens(data: bytes) -> Iterator[tuple[int, list[bytes], int]]:
    """Return tables of tokens: position, tokens, position behind their indexes."""
    at = -1
    while (at := data.find(DIGITS, at + 1)) >= 0:
        end = at
        for _ in range(TOKENS - ord("0")):
            stop = data.find(b"\0", end, end + MAX_TOKEN)
            if stop < 0:
                break
            end = stop + 1
        else:
            for index in range(-(-end // 4) * 4, end + 16, 4):
                starts = struct.unpack_from(f"<{TOKENS}H", data, index) if index + 512 <= len(data) else (1,)
                start = at - starts[-1 if len(starts) < TOKENS else ord("0")]
                if starts[0] == 0 and start >= 0 and list(starts) == sorted(set(starts)) and starts[-1] < end - start:
                    yield start, [data[start + one : data.index(b"\0", start + one)] for one in starts], index + 512
                    break


def _markers(data: bytes, behind: int) -> tuple[int, int] | None:
    """
    Return start and end of the last table of markers before a position.

    It ascends from 0. Kernels since 6.2, and stable ones, have the order of the names between it and the tokens.
    """
    first = max(0, behind - 4 * MAX_SYMBOLS) & ~3
    words = np.frombuffer(data, "<u4", (behind - first) // 4, first).astype(np.int64)
    steps = np.diff(words)
    # 256 names of at least 2 and at most 512 bytes each.
    fits = (steps >= 2 * NAMES_PER_MARKER) & (steps <= 512 * NAMES_PER_MARKER)
    for start in np.flatnonzero((words[:-1] == 0) & fits)[::-1]:
        misfits = np.flatnonzero(~fits[start:])
        count = int(misfits[0]) + 1 if len(misfits) else len(words) - int(start)
        if count >= MIN_MARKERS:
            return first + 4 * int(start), first + 4 * (int(start) + count)
    return None


def _heads(data: bytes, start: int, count: int, two_bytes: bool) -> list[tuple[int, int]] | None:
    """Return the starts and ends of so many names, or ``None`` if they make no sense."""
    names = []
    at = start
    for _ in range(count):
        if at + 2 > len(data):
            return None
        size, head = data[at], 1
        if two_bytes and size & 0x80:
            size, head = size & 0x7F | data[at + 1] << 7, 2
        if not size:
            return None
        names.append((at + head, at + head + size))
        at += head + size
    return names


def _names(data: bytes, markers: int, behind: int) -> tuple[int, list[tuple[int, int]]] | None:
    """Return where the names start whose markers are known, and the names."""
    table = array("I", data[markers:behind])
    highest = markers - table[-1]
    for start in range(highest - highest % 4, max(8, highest - 512 * NAMES_PER_MARKER), -4):
        for at in (start - 8, start - 4):
            (count,) = struct.unpack_from("<I", data, at)
            if -(-count // NAMES_PER_MARKER) != len(table) or count > MAX_SYMBOLS:
                continue
            for two_bytes in (True, False):
                names = _heads(data, start, count, two_bytes)
                first = [] if names is None else names[::NAMES_PER_MARKER]
                if names and all(0 < name[0] - start - marker <= 2 for name, marker in zip(first, table)):
                    return at, names
    return None


def _is_order(data: bytes, start: int, count: int) -> bool:
    """Return whether numbers of symbols follow, three bytes each."""
    numbers = data[start : start + 3 * PROBED]
    return len(numbers) == 3 * PROBED and all(
        int.from_bytes(numbers[i : i + 3], "big") < count for i in range(0, 3 * PROBED, 3)
    )


@dataclass(frozen=True)
class _Names:
    """
    The names of kallsyms in a segment.

    :ivar before: Position of the number of symbols, which is before the names.
    :ivar behind: Position behind the indexes of tokens.
    """

    names: list[str]
    before: int
    behind: int


def _find_names(data: bytes) -> Iterator[_Names]:
    for start, tokens, behind in _tokens(data):
        markers = _markers(data, start)
        found = _names(data, *markers) if markers is not None else None
        if found is not None:
            before, spans = found
            # The first letter is the symbol's type.
            names = [b"".join([tokens[code] for code in data[low:high]])[1:].decode("latin-1") for low, high in spans]
            yield _Names(names, before, behind)


def _places(data: bytes, found: _Names, size: int) -> Iterator[tuple[int | None, int]]:
    """Return where the base and the offsets from it may be; without a base they are from where each is stored."""
    count = len(found.names)
    # Until 6.3 they are before the names.
    base = (found.before - size) // size * size
    yield base, base - -(-4 * count // size) * size
    # Since 6.4 they are behind the indexes of tokens, and the order of the names is behind them.
    for start in range(-(-found.behind // 4) * 4, found.behind + 16, 4):
        base = -(-(start + 4 * count) // size) * size
        if _is_order(data, base + size, count):
            yield base, start
        if _is_order(data, start + 4 * count, count):
            yield None, start


def _addresses(segment: Segment, found: _Names, cpu: Cpu) -> Iterator[list[int]]:
    """Return candidates for the addresses of all symbols, in the ways in which kernels store them."""
    data, count = segment.data, len(found.names)
    size, word = (8, "<Q") if cpu.wide else (4, "<I")
    mask = (1 << 8 * size) - 1
    for base, start in _places(data, found, size):
        if start < 0 or start + 4 * count > len(data):
            continue
        signed = array("i", data[start : start + 4 * count])
        if base is None:
            # Since 7.0; on machines that don't relocate themselves they are addresses.
            yield [segment.virtual + start + 4 * i + offset & mask for i, offset in enumerate(signed)]
            yield [offset & mask for offset in signed]
            continue
        (value,) = struct.unpack_from(word, data, base)
        # arm64 may relocate it when it starts; it is the lowest symbol's address.
        value = value or segment.virtual + cpu.head
        yield [value + (offset & 0xFFFFFFFF) & mask for offset in signed]
        # CONFIG_KALLSYMS_ABSOLUTE_PERCPU, until 6.15.
        yield [value - 1 - offset & mask if offset < 0 else offset for offset in signed]


def read_kallsyms(image: Image) -> Symbols:
    """
    Return the symbols in the kallsyms of an image.

    :raises HarnessError: if there are none.
    """
    text = min(segment.virtual for segment in image.segments if segment.virtual)
    for segment in image.segments:
        for found in _find_names(segment.data):
            if "_stext" not in found.names or "start_kernel" not in found.names:
                continue
            first, inside = found.names.index("_stext"), found.names.index("start_kernel")
            for addresses in _addresses(segment, found, image.cpu):
                if addresses[first] - text == image.cpu.head and text < addresses[inside] < text + MAX_TEXT:
                    # Of several symbols of a name, the first one counts.
                    return Symbols(dict(zip(reversed(found.names), reversed(addresses))))
    raise HarnessError("no kallsyms found in the image; give its System.map or its vmlinux")
