# SPDX-License-Identifier: LGPL-2.1-or-later
from typing import Any

import numpy.typing as npt

def fold(pages: npt.NDArray[Any], any: npt.NDArray[Any], all: npt.NDArray[Any], /) -> None: ...
