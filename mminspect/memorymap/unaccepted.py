# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that a confidential guest has not accepted yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mminspect.memorymap.percpu import ListFault


@dataclass(frozen=True)
class UnacceptedList:
    """
    ``zone->unaccepted_pages``, with what was seen on the way. Empty lists without a count are left out.

    :ivar pfns: First pfns of its blocks, in the order of the list, as far as it was followed.
    :ivar complete: Whether it was followed to its end.
    :ivar stated: How many pages the kernel says are on it; ``None`` if that isn't known exactly.
    :ivar locked: Whether ``zone->lock`` is held.
    """

    node: int
    zone: int
    pfns: npt.NDArray[np.uint64]
    faults: tuple[ListFault, ...]
    complete: bool
    stated: int | None
    locked: bool
