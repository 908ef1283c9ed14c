# SPDX-License-Identifier: LGPL-2.1-or-later
"""mminspect: a linter for the Linux kernel's memory map. In a drgn session: ``mminspect.scan(prog)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mminspect.walk.library import scan as scan

__version__ = "0.1.0"
__all__ = ("__version__", "scan")


def __getattr__(name: str) -> Any:
    if name != "scan":
        raise AttributeError(name)
    # Imported late, so that "import mminspect" costs nothing.
    return __import__("mminspect.walk.library", fromlist=["scan"]).scan
