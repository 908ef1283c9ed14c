# SPDX-License-Identifier: LGPL-2.1-or-later
"""Exit statuses."""

from __future__ import annotations

FINDINGS = 1
FAILED = 2
# Whoever read the output went away: as a program that SIGPIPE ends, in a shell.
BROKEN_PIPE = 141
