# SPDX-License-Identifier: LGPL-2.1-or-later
"""Completion in shells: what bash is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.kit.support import ROOT


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
    assert [line.split(",", 1)[1] for line in asked(words)] == completed


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("mminspect -c vm", "file"),
        ("mminspect scan vm", "file"),
        ("mminspect page -s vm", "file"),
        ("mminspect capture -o out", "file"),
        ("mminspect diff a b", "file"),
        ("mminspect triage x", "file"),
        ("mminspect map --from x", "file"),
        ("mminspect fleet run x", "file"),
        ("mminspect fleet show x", "dir"),
        ("mminspect fleet run --out x", "dir"),
    ],
)
def test_files_and_directories_are_left_to_the_shell(words: str, kind: str) -> None:
    assert asked(words) == [f"{kind},{words.split()[-1]}"]


def asked(words: str) -> list[str]:
    """Return what bash is told of the last of some words: a line of kind and value each."""
    environment = {
        **os.environ,
        "_MMINSPECT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    program = [sys.executable, "-m", "mminspect"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.splitlines()
