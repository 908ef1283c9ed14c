# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The catalog of rules as plain data, read without loading the rules and what they compute with.

``python -m tests.kit.examples`` writes it to catalog.json. A test compares that with the rules and the vmcores.
"""

from __future__ import annotations

import functools
import json
import pkgutil
from collections.abc import Iterable
from typing import Any

from mminspect.errors import MminspectError, did_you_mean

FILE = "catalog.json"


def load_catalog() -> list[dict[str, Any]]:
    """
    Load the catalog.

    :return: For each rule, in alphabetical order: ``id``, ``summary``, ``documentation``, ``functions``, ``commits``,
        and ``example``: the stored vmcore that it is from (``fixture``), what was changed there (``planted``, or
        ``None``), and the ``finding``.
    """
    # importlib.resources would take longer to be imported than this does. It reads from a zip archive too.
    loaded: list[dict[str, Any]] = json.loads(read_catalog())
    return loaded


@functools.cache
def read_catalog() -> bytes:
    """Return the text of the catalog."""
    return pkgutil.get_data(__package__, FILE) or b""


def catalog_of(rule: str) -> dict[str, Any]:
    """
    Get the entry of one rule.

    :raises MminspectError: if there is none of that name.
    """
    entries = {entry["id"]: entry for entry in load_catalog()}
    if rule not in entries:
        raise no_such_rule(rule, entries)
    return entries[rule]


def no_such_rule(name: str, rules: Iterable[str]) -> MminspectError:
    """Make the error for a name that is no rule's."""
    rules = list(rules)
    return MminspectError(f"there is no rule {name!r}{did_you_mean(name, rules)}; the rules are {', '.join(rules)}")
