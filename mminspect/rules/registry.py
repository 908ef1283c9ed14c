# SPDX-License-Identifier: LGPL-2.1-or-later
"""All rules: load and choose."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence

from mminspect import rules as rules_package
from mminspect.errors import MminspectError
from mminspect.rules.base import Rule
from mminspect.rules.catalog import no_such_rule


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

    :param select: IDs to use; if empty, all but those that are for requests only.
    :param ignore: IDs to leave out of these.
    :raises MminspectError: for an ID that is no rule's, and if no rule is left.
    """
    rules = all_rules()
    for name in (*select, *ignore):
        if name not in rules:
            raise no_such_rule(name, rules)
    chosen = [r for r in rules.values() if (r.id in select if select else not r.on_request) and r.id not in ignore]
    if not chosen:
        raise MminspectError("no rule is left to apply: each one that is selected is ignored")
    return chosen
