# SPDX-License-Identifier: LGPL-2.1-or-later
"""Modules that are imported when they are needed, and could be unreadable for the user that the process becomes."""

from __future__ import annotations

import contextlib
import importlib

LATE = (
    # What drgn imports when a core dump is set.
    "_drgn_util.plugins",
    "hashlib",
    "importlib.metadata",
    "mminspect.kernel.identify",
    "mminspect.memmap._classes",
    "mminspect.memmap._digest",
    "mminspect.program.guest",
    "mminspect.program.unpack",
    "mminspect.walk.picture",
    "mminspect.walk.scan",
    "drgn.helpers.linux.kallsyms",
    "drgn.helpers.linux.xarray",
    "click._termui_impl",
    "tabulate",
)


def load() -> None:
    """Import them now, those that there are."""
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
