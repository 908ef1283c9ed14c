# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m tests.fuzz``: run cases and record what they did."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.session import Session, resume


def main() -> int:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="cases to run (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the cases (default: 1)")
    parser.add_argument("--record", type=Path, help="file of results; a seed goes on behind the last case in it")
    parser.add_argument("--only", type=int, metavar="N", help="run case N alone")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="with --only: keep its damaged file")
    parser.add_argument("--input", action="append", help="damage this input only; may be given more than once")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mminspect-fuzz-"))
    try:
        session = Session(folder, options.seed, options.input)
        if options.only is not None:
            return session.show(options.only, options.keep)
        first = resume(options.record, options.seed) if options.record else 0
        return session.run(first, options.cases, options.record)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
