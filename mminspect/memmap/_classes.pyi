# SPDX-License-Identifier: LGPL-2.1-or-later
from typing import Any

import numpy.typing as npt

def count(
    pages: npt.NDArray[Any],
    spec: bytes,
    base: int,
    skip: int,
    order: int,
    edges: npt.NDArray[Any],
    free: npt.NDArray[Any],
    counts: npt.NDArray[Any],
) -> tuple[int, int, int]: ...
