# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user names to open a kernel."""

from __future__ import annotations

from typing import NamedTuple


class Inputs(NamedTuple):
    """
    What a user names to open a kernel.

    :ivar core: Path of the vmcore, ``None`` for the running kernel or a guest.
    :ivar pieces: The other files of a split dump.
    :ivar vmcoreinfo: File with the kernel's VMCOREINFO, where the vmcore has none.
    :ivar symbols: Files with DWARF: a vmlinux, perhaps modules.
    :ivar btf: File with raw BTF.
    :ivar system_map: System.map of the kernel.
    :ivar pageblock_order: Overrides what the kernel says.
    :ivar sandbox: Whether the command line gives up its rights: ``auto``, ``require`` or ``off``.
    :ivar qemu: Socket of the monitor of a guest.
    :ivar debug: Whether it says what of that can't be had.
    """

    core: str | None = None
    symbols: tuple[str, ...] = ()
    btf: str | None = None
    system_map: str | None = None
    pageblock_order: int | None = None
    pieces: tuple[str, ...] = ()
    vmcoreinfo: str | None = None
    sandbox: str = "auto"
    debug: bool = False
    qemu: str | None = None

    @property
    def files(self) -> tuple[str | None, ...]:
        """The files that are read. A socket is none."""
        return (self.core, *self.pieces, *self.symbols, self.btf, self.system_map, self.vmcoreinfo)
