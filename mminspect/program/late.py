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
    "mminspect.render.triage_page",
    "mminspect.program.guest",
    "mminspect.program.unpack",
    "mminspect.walk.picture",
    "mminspect.walk.scan",
    # numpy.unique() and numpy.isin() import it.
    "numpy.ma",
    "drgn.helpers.linux.kallsyms",
    "drgn.helpers.linux.xarray",
    "click._termui_impl",
    "tabulate",
)

# Functions that list folders or read files of the package, and remember what they found.
READ = (
    ("mminspect.rules.registry", "all_rules"),
    ("mminspect.rules.catalog", "read_catalog"),
    ("mminspect.render.html", "read_files"),
)


def load() -> None:
    """Import them now, those that there are, and read what will be read of the package."""
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name, function in READ:
        getattr(importlib.import_module(name), function)()
