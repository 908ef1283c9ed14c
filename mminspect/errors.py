# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors that mminspect reports to its user."""

from __future__ import annotations

from collections.abc import Iterable


def message_of(error: Exception) -> str:
    """Return the message of an error that isn't ours in one line."""
    return " ".join(str(error).split())


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Say which word was probably meant, to go behind what is wrong; nothing if none is near."""
    from difflib import get_close_matches

    found = get_close_matches(word.replace("_", "-"), list(words), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


class MminspectError(Exception):
    """
    The job can't be done.

    The message is one line: it says what is wrong and what to do about it. The command line
    prints it and exits with status 2.
    """


class Stopped(BaseException):
    """
    A signal ends the program.

    Derives from ``BaseException`` so that only the command line catches it, and not from ``KeyboardInterrupt``, which
    click handles itself.

    :ivar status: Exit status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TargetError(MminspectError):
    """The vmcore or the running kernel can't be opened or read."""


class TruncatedError(TargetError):
    """The file of a vmcore is shorter than its headers say."""

    def __init__(self, path: str, size: int, needed: int) -> None:
        super().__init__(f"{path}: {truncated(size, needed)}; copy the dump again")


def truncated(size: int, needed: int) -> str:
    """Say that a file is shorter than its headers say."""
    return f"truncated: the file has {size} bytes, its headers speak of {needed}"


class CutShortError(TargetError):
    """The file of a vmcore lost its end while it was read."""

    def __init__(self) -> None:
        super().__init__("the vmcore was cut short while it was read")


class DamagedError(TargetError):
    """What a vmcore says of its kernel contradicts itself, so that drgn fails over it."""

    def __init__(self, error: Exception) -> None:
        said = message_of(error) or type(error).__name__
        super().__init__(f"what the target says of its kernel can't be ({said}); the dump or its types are damaged")


class LostError(TargetError):
    """Part of a vmcore's file can't be read, though the file is as long as ever."""

    def __init__(self) -> None:
        super().__init__("the vmcore is damaged: a part that is read lies behind its end; or its disk has an error")


class TypeInfoError(MminspectError):
    """There is no usable type information for the kernel."""


class LayoutError(MminspectError):
    """The kernel's memory map layout can't be derived, or makes no sense."""
