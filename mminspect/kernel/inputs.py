# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user names to open a kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Inputs:
    """
    What a user names to open a kernel.

    :ivar core: Path of the vmcore, ``None`` for the running kernel.
    :ivar symbols: Files with DWARF: a vmlinux, perhaps modules.
    :ivar btf: File with raw BTF.
    :ivar system_map: System.map of the kernel.
    :ivar pageblock_order: Overrides what the kernel says.
    """

    core: str | None = None
    symbols: tuple[str, ...] = ()
    btf: str | None = None
    system_map: str | None = None
    pageblock_order: int | None = None

    @property
    def files(self) -> tuple[str | None, ...]:
        """The files that are read."""
        return (self.core, *self.symbols, self.btf, self.system_map)
