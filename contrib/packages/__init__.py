# SPDX-License-Identifier: LGPL-2.1-or-later
"""What packages of distributions need beside the Python package."""

from __future__ import annotations
