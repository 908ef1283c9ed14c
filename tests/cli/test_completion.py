# SPDX-License-Identifier: LGPL-2.1-or-later
"""Completion in shells: what bash is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("mminspect scan --select zone-i", ["zone-id"]),
        ("mminspect watch --ignore zone-id,mixed", ["zone-id,mixed-zone"]),
        ("mminspect rules bitmap", ["bitmap-bounds"]),
        ("mminspect tri", ["triage"]),
    ],
)
def test_rules_and_commands_are_completed(words: str, completed: list[str]) -> None:
    environment = {
        **os.environ,
        "_MMINSPECT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    program = os.path.join(os.path.dirname(sys.executable), "mminspect")
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    assert [line.split(",", 1)[1] for line in done.stdout.splitlines()] == completed
