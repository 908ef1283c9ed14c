# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m mminspect``."""

from mminspect.cli import run

run()
