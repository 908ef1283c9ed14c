# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where the records of BTF's types begin.

They follow each other, each as long as its own words say, so there is one right index. To compute it takes ten times as
long as to check one. Where many vmcores of a kernel are read, the index of an earlier one is tried: it is a hint that
needs no trust, since each is checked as a whole against the types at hand.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from mminspect.errors import TypeInfoError

# More than four times what the largest kernels have.
MAX_SIZE = 32 << 20

KIND_INT = 1
KIND_PTR = 2
KIND_ARRAY = 3
KIND_STRUCT = 4
KIND_UNION = 5
KIND_ENUM = 6
KIND_FWD = 7
KIND_TYPEDEF = 8
KIND_VOLATILE = 9
KIND_CONST = 10
KIND_RESTRICT = 11
KIND_FUNC = 12
KIND_FUNC_PROTO = 13
KIND_VAR = 14
KIND_DATASEC = 15
KIND_FLOAT = 16
KIND_DECL_TAG = 17
KIND_TYPE_TAG = 18
KIND_ENUM64 = 19

# 32-bit words that follow the three of struct btf_type: a fixed number, and a number per element.
WORDS = {
    KIND_INT: (1, 0),
    KIND_PTR: (0, 0),
    KIND_ARRAY: (3, 0),
    KIND_STRUCT: (0, 3),
    KIND_UNION: (0, 3),
    KIND_ENUM: (0, 2),
    KIND_FWD: (0, 0),
    KIND_TYPEDEF: (0, 0),
    KIND_VOLATILE: (0, 0),
    KIND_CONST: (0, 0),
    KIND_RESTRICT: (0, 0),
    KIND_FUNC: (0, 0),
    KIND_FUNC_PROTO: (0, 2),
    KIND_VAR: (1, 0),
    KIND_DATASEC: (0, 3),
    KIND_FLOAT: (0, 0),
    KIND_DECL_TAG: (1, 0),
    KIND_TYPE_TAG: (0, 0),
    KIND_ENUM64: (0, 3),
}
# Words of a record by kind; of a kind that isn't known, more than there can be.
_FIXED = np.full(32, MAX_SIZE, np.uint32)
_EACH = np.zeros(32, np.uint32)
for _kind, (_extra, _per_element) in WORDS.items():
    _FIXED[_kind] = 3 + _extra
    _EACH[_kind] = _per_element
# Words whose records' ends are computed at once.
_PIECE = 1 << 18

# Indexes to try, by BTF header, and those that were computed.
hints: dict[bytes, bytes] = {}
computed: dict[bytes, array[int]] = {}


def starts_of(header: bytes, words: array[int]) -> array[int]:
    """
    Get where each type's record begins, in words. Type ID 0 is void, which has no record.

    :param header: BTF header: what hints are found by.
    :param words: The section of types.
    :raises TypeInfoError: if the records don't fit it.
    """
    hint = hints.get(header)
    if hint is not None and is_right(hint, words):
        return array("I", hint)
    starts = computed[header] = _compute(words)
    return starts


def is_right(hint: bytes, words: array[int]) -> bool:
    """Tell whether an index is that of these types: it begins with the first, each leads to the next, to the end."""
    if len(hint) < 8 or len(hint) % 4 or len(hint) // 4 > len(words):
        return False
    starts = np.frombuffer(hint, np.uint32)
    if starts[0] or starts[1] or int(starts.max()) + 2 > len(words):
        return False
    records = starts[1:]
    info = np.frombuffer(words, np.uint32)[records + 1]
    ends = records + _lengths(info)
    return int(ends[-1]) == len(words) and bool((ends[:-1] == records[1:]).all())


def _lengths(info: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    kinds = (info >> 24) & 0x1F
    lengths: npt.NDArray[np.uint32] = _FIXED[kinds] + _EACH[kinds] * (info & 0xFFFF)
    return lengths


def _compute(all_words: array[int]) -> array[int]:
    words = np.frombuffer(all_words, np.uint32)
    total = len(words)
    # Where a record would end if one began at each word. To compute all of them at once takes less time than
    # to decode the records one after the other.
    ends_of = np.arange(max(total - 1, 0), dtype=np.uint32)
    for at in range(0, len(ends_of), _PIECE):
        ends_of[at : at + _PIECE] += _lengths(words[at + 1 : at + 1 + _PIECE])
    ends = memoryview(ends_of.data)
    starts = array("I", [0])
    append = starts.append
    pos = 0
    try:
        while pos < total:
            append(pos)
            pos = ends[pos]
    except IndexError:
        pos = 0
    if pos >= MAX_SIZE:
        kind = int(words[starts[-1] + 1] >> 24) & 0x1F
        raise TypeInfoError(f"BTF has types of a kind that mminspect doesn't know ({kind})")
    if pos != total or total == 0:
        raise TypeInfoError("corrupt BTF: the type records don't fit their section")
    return starts
