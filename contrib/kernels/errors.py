# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one exception of this harness."""

from __future__ import annotations


class HarnessError(Exception):
    """Something could not be done. The text says what and, where known, what to do about it."""
