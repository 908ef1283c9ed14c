# SPDX-License-Identifier: LGPL-2.1-or-later
"""All rules: load, choose, list."""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from mminspect import rules as rules_package
from mminspect.errors import MminspectError
from mminspect.rules.base import Rule


@functools.cache
def all_rules() -> Mapping[str, Rule]:
    """
    Load every rule.

    :return: Rules by ID, in alphabetical order.
    """
    rules = {}
    for info in pkgutil.iter_modules(rules_package.__path__):
        module = importlib.import_module(f"{rules_package.__name__}.{info.name}")
        rule = getattr(module, "RULE", None)
        if isinstance(rule, Rule):
            name = info.name.replace("_", "-")
            # python -OO takes the docstrings away.
            rules[name] = rule._replace(id=name, documentation=module.__doc__ or "")
    return dict(sorted(rules.items()))


def select_rules(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> list[Rule]:
    """
    Choose rules.

    :param select: IDs to use; all if empty.
    :param ignore: IDs to leave out of these.
    :raises MminspectError: for an ID that is no rule's, and if no rule is left.
    """
    rules = all_rules()
    for name in (*select, *ignore):
        if name not in rules:
            raise MminspectError(f"there is no rule {name!r}; the rules are {', '.join(rules)}")
    chosen = [r for r in rules.values() if (not select or r.id in select) and r.id not in ignore]
    if not chosen:
        raise MminspectError("no rule is left to apply: each one that is selected is ignored")
    return chosen


def examples() -> dict[str, Any]:
    """
    Load the examples.

    :return: By rule ID: the stored vmcore that it is from (``fixture``), what was changed there (``planted``, or
        ``None``), and the ``finding``.
    """
    text = resources.files(rules_package).joinpath("examples.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def catalog(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Get the catalog entries of some rules as plain data."""
    shown = examples()
    return [
        {
            "id": rule.id,
            "summary": rule.summary,
            "documentation": rule.documentation.strip(),
            "functions": list(rule.functions),
            "commits": [commit._asdict() for commit in rule.commits],
            "example": shown.get(rule.id),
        }
        for rule in rules
    ]
