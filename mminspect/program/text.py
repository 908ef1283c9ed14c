# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Text from outside: a vmcore, its name, its log.

Whatever is written for people or for other programs goes through :class:`Guarded` or :func:`one_line`, so that no text
of a vmcore moves the cursor, changes a title, hides or reorders what is beside it, or looks like a line of its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import TextIO

# C0 and C1, DEL, soft hyphen; characters without a width, marks of direction, invisible fillers, separators of lines,
# variation selectors, tags; what isn't a character.
_HIDDEN = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff\ud800-\udfff"
)
_UNSAFE = re.compile(f"[{_HIDDEN}]")
# A line's end is no harm in text of more than one line.
_UNSAFE_IN_LINES = re.compile(f"(?!\n)[{_HIDDEN}]")
# The colors that click makes of what mminspect itself says, and the cells of a map: a color for each character, and the
# end of it.
_CELL = r"\x1b\[0(?:;1)?(?:;[34]8;5;\d{1,3}|;49){0,2}m[ -~\u2580\u2584]"
_COLOR = re.compile(rf"((?:{_CELL})+\x1b\[0m|\x1b\[(?:0|31|33|36)m)")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
DAMAGED = " (damaged)"
# Bytes of a kernel's names: __NEW_UTS_LEN, the longest of zone_names[] with room, KSYM_NAME_LEN.
MAX_UTS_NAME = 64
MAX_ZONE_NAME = 16
MAX_SYMBOL_NAME = 512


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:
        # A byte of a file's name that isn't UTF-8.
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """Show what can't be seen, line ends too."""
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape, text)


def shell_word(path: str) -> str:
    """Quote a path for a shell, so that what can be seen is what is there: ``$'a\\nb'`` where it needs that."""
    if one_line(path) == path:
        return shlex.quote(path)
    text = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b"\\'" else f"\\x{byte:02x}"
        for byte in path.encode("utf-8", "surrogateescape")
    )
    return f"$'{text}'"


def lines(text: str) -> str:
    """Show what can't be seen, but leave line ends."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _UNSAFE_IN_LINES.sub(_escape, text)


def kernel_name(data: bytes, limit: int) -> str:
    """
    Decode a name that a kernel gave: a release, a zone, a symbol.

    :param limit: Bytes that it can have at most.
    :return: The name. One that no kernel can have is cut, shown and said to be damaged.
    """
    text = data[:limit].decode("ascii", "backslashreplace")
    if len(data) <= limit and data.isascii() and text.isprintable():
        return text
    return one_line(text) + DAMAGED


class Guarded:
    """
    A stream for text: what can't be seen is shown, but for line ends, and on a terminal colors.

    :param out: Where it goes.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._color = out.isatty()

    def write(self, text: str) -> int:
        """Write text."""
        safe = lines(text)
        if safe is not text and self._color:
            safe = "".join(part if _COLOR.fullmatch(part) else lines(part) for part in _COLOR.split(text))
        try:
            self._out.write(safe)
        except UnicodeEncodeError:
            encoding = self._out.encoding
            self._out.write(safe.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Write several texts."""
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._out, name)
