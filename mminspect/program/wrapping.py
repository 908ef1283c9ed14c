# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a vmcore can be wrapped in, told by the first bytes of the file."""

from __future__ import annotations

# How many bytes tell it.
START = 512
_COMPRESSIONS = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh"}
# Where a tar archive has its magic number.
_TAR_MAGIC = (257, b"ustar")


def compression(start: bytes) -> str | None:
    """
    Get the compression of a file.

    :return: ``gzip``, ``xz``, ``zstd``, ``bzip2`` or ``None``.
    """
    return next((name for name, magic in _COMPRESSIONS.items() if start.startswith(magic)), None)


def is_tar(start: bytes) -> bool:
    """Tell whether a file is a tar archive."""
    at, magic = _TAR_MAGIC
    return start[at : at + len(magic)] == magic


def is_wrapped(start: bytes) -> bool:
    """Tell whether a file has to be unpacked."""
    return compression(start) is not None or is_tar(start)
