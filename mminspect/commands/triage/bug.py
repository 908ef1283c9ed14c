# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of a bug of the memory map."""

from __future__ import annotations

from typing import NamedTuple

from mminspect.rules.commits import Commit

FIX, CAUSE, STEP, REVERT = "its fix", "introduced it", "part of its fix", "reverted"


class Bug(NamedTuple):
    """
    A known bug, or a known quirk of stock kernels.

    :ivar id: Its name.
    :ivar title: In one line.
    :ivar evidence: What it leaves in memory.
    :ivar rules: Rules that see it.
    :ivar proof: What proves it.
    :ivar introduced: First release that has it; ``None`` if all older ones do, or nobody knows.
    :ivar introduced_stable: First stable releases of older series that have it, as they got its cause.
    :ivar fixed: First mainline release without it; ``None`` if there is none.
    :ivar stable: First stable releases without it. "5.10.y" says that the series got the fix, and not when.
    :ivar commits: Verified ones only.
    :ivar functions: Beginnings of functions in which kernels die of it, without leading underscores.
    :ivar words: What kernels say when they die of it: a regular expression.
    :ivar machines: That have it; empty if any can.
    :ivar harmful: False where the kernel never uses what is wrong.
    """

    id: str
    title: str
    evidence: str
    rules: tuple[str, ...]
    proof: str
    introduced: str | None = None
    introduced_stable: tuple[str, ...] = ()
    fixed: str | None = None
    stable: tuple[str, ...] = ()
    commits: tuple[Commit, ...] = ()
    functions: tuple[str, ...] = ()
    words: str | None = None
    machines: tuple[str, ...] = ()
    harmful: bool = True
