# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of what packages need."""

from __future__ import annotations
