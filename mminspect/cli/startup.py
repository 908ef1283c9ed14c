# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done before anything else is imported, so that the program starts fast."""

from __future__ import annotations

import gc
import os
import re
import sys
from glob import escape, iglob

# Plugins that drgn would load which are commands for its interactive session. They take longer to load than all else.
SESSION_PLUGINS = ("mminspect", "builtin_commands", "crash_commands")
GC_THRESHOLD = 50_000
_GROUP = re.compile(r"^\s*\[drgn\.plugins\]\s*$(.*?)(?=^\s*\[|\Z)", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"^\s*([^=#\s]+)\s*=", re.MULTILINE)


def start_fast() -> None:
    """Stop libraries from initializing things we don't use."""
    disabled = os.environ.get("DRGN_DISABLE_PLUGINS")
    if disabled != "*":
        names = (*SESSION_PLUGINS, *(disabled.split(",") if disabled else ()))
        # drgn looks for plugins with importlib.metadata, which takes 40 ms to be imported; "*" keeps it from that.
        os.environ["DRGN_DISABLE_PLUGINS"] = "*" if installed_plugins() <= set(names) else ",".join(names)
    # Nothing of a vmcore is sent anywhere, and what a server would send isn't trusted.
    os.environ.pop("DEBUGINFOD_URLS", None)
    # Findings are many small objects in no cycle: looking for cycles after each 700 of them finds none.
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    # numpy's linear algebra starts a thread for each CPU.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def installed_plugins() -> set[str]:
    """Get the names of the entry points in the group ``drgn.plugins`` of all installed packages."""
    names = set()
    for directory in sys.path:
        if os.path.isfile(directory):
            # A zip archive can hold anything.
            names.add(directory)
        for path in iglob(os.path.join(escape(directory or "."), "*.*-info", "entry_points.txt")):
            with open(path, encoding="utf-8", errors="replace") as file:
                group = _GROUP.search(file.read())
            names.update(_NAME.findall(group[1]) if group else ())
    return names


def open_standard_files() -> None:
    """Keep the numbers of standard files that the caller closed from files that are opened later."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
