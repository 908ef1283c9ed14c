# SPDX-License-Identifier: LGPL-2.1-or-later
"""The start of the program."""

from __future__ import annotations

from typing import NoReturn

from mminspect import signals


def main() -> NoReturn:
    """Run the command line. An interrupt while it is still being imported leaves no traceback."""
    signals.quit_at_once()
    from mminspect.cli.run import run

    run()


if __name__ == "__main__":
    main()
