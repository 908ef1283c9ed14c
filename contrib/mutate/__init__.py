# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mistakes put into mminspect itself: does a fast test notice each of them?"""

from __future__ import annotations
