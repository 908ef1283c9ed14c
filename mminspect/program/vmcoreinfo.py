# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO: what the kernel itself says about its layout, as text lines ``KEY=VALUE``."""

from __future__ import annotations

import re

from mminspect.program.text import MAX_UTS_NAME, kernel_name

# Messages have these. utsname has 64 characters for a release; a build ID is 20 bytes, in hexadecimal digits.
MAX_BUILD_ID = 128
_SYMBOL = re.compile(r"SYMBOL\(([^)]+)\)")
# The kernel has a page for it (VMCOREINFO_BYTES), and no larger pages than these.
MAX_SIZE = 1 << 16
# More digits than any number of 64 bits has.
_MAX_DIGITS = 24


def _number(text: str, base: int) -> int | None:
    """Get a number; ``None`` if it is none, or one that no variable of the kernel can have."""
    try:
        value = int(text, base) if len(text) <= _MAX_DIGITS else None
    except ValueError:
        return None
    return value if value is not None and -(1 << 63) <= value < 1 << 64 else None


def release_version(release: str) -> tuple[int, int]:
    """
    Get the version of a release.

    :return: (major, minor); (0, 0) if the release has another form.
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


class Vmcoreinfo:
    """
    The VMCOREINFO of one kernel.

    :ivar lines: All values by key, as text.
    :ivar symbols: Addresses by symbol name, with the KASLR offset in them.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[str, str] = {}
        self.symbols: dict[str, int] = {}
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if not equals:
                continue
            self.lines[key] = value
            match = _SYMBOL.fullmatch(key)
            if match:
                address = _number(value, 16)
                if address is not None and address >= 0:
                    self.symbols[match.group(1)] = address

    def number(self, key: str) -> int | None:
        """
        Get a number.

        :param key: Whole key, e.g. ``NUMBER(phys_base)`` or ``LENGTH(node_data)``.
        :return: The number, or ``None`` if it is missing, or no number that a kernel can have.
        """
        return _number(self.lines.get(key, ""), 0)

    @property
    def release(self) -> str:
        """The kernel's release (``uname -r``)."""
        return kernel_name(self.lines.get("OSRELEASE", "").encode(), MAX_UTS_NAME)

    @property
    def build_id(self) -> str | None:
        """
        The build ID of the kernel as hexadecimal digits.

        Since Linux kernel commit 0935288c6e00 ("kdump: append kernel build-id string to VMCOREINFO") (in v5.9).
        """
        found = self.lines.get("BUILD-ID")
        return None if found is None else kernel_name(found.encode(), MAX_BUILD_ID)

    @property
    def kaslr_offset(self) -> int:
        """Bytes by which KASLR moved the kernel image."""
        return _number(self.lines.get("KERNELOFFSET", "0"), 16) or 0

    @property
    def buddy_mapcount(self) -> int | None:
        """What a page in the buddy allocator has in the place of ``_mapcount``, signed. Since before Linux 4.19."""
        value = self.number("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")
        # It is an int of 32 bits.
        return None if value is None else (value + (1 << 31)) % (1 << 32) - (1 << 31)
