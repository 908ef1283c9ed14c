# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare two kernels on the same layouts: what does one show that the other doesn't?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contrib.explore.describe import brief
from contrib.explore.judge import SEVERITIES
from contrib.explore.layout import Layout, LayoutError, dumps, from_json, loads
from contrib.explore.qemu import command
from contrib.explore.workers import Done, Pool, Spec, Task
from contrib.kernels.errors import HarnessError

# A signature that depends on timing must not be taken for a difference: a layout is repeated this often.
REPEATS = 3


@dataclass
class Difference:
    """
    A signature that only one kernel has.

    :ivar key: Severity and signature.
    :ivar layouts: The layouts that give it.
    :ivar example: A message.
    """

    key: str
    layouts: list[Layout] = field(default_factory=list)
    example: str = ""


@dataclass
class Comparison:
    """
    What two kernels make of the same layouts.

    :ivar tried: How many layouts both could be tried on.
    :ivar new: What the second kernel shows and the first doesn't.
    :ivar gone: What the first kernel shows and the second doesn't.
    :ivar failures: What the harness failed on.
    """

    tried: int = 0
    new: list[Difference] = field(default_factory=list)
    gone: list[Difference] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def read_corpus(path: Path) -> list[Layout]:
    """
    Return the layouts of a file with one in each line, by itself or under the key ``layout``.

    :raises HarnessError: if it can't be read.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: {error}") from None
    layouts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            layouts.append(from_json(data.get("layout", data) if isinstance(data, dict) else data))
        except (ValueError, LayoutError) as error:
            raise HarnessError(f"{path}:{number}: {error}") from None
    return layouts


Seen = dict[str, dict[str, str]]


def seen_by(pool: Pool, spec: Spec, layouts: Iterable[Layout], failures: list[str]) -> Seen:
    """Return the signatures of each layout on a kernel: by layout, then signature, with an example."""

    def tasks() -> Iterator[Task]:
        for layout in layouts:
            yield Task(dumps(layout))

    seen: Seen = {}
    for done in pool.run(spec, tasks()):
        _take(done, seen, failures)
    return seen


def _take(done: Done, seen: Seen, failures: list[str]) -> None:
    if done.outcome is None:
        failures.append(done.error)
        return
    found = seen.setdefault(done.task.layout, {})
    for sighting in done.outcome.sightings:
        found.setdefault(sighting.key, sighting.example)


def differences(first: Seen, second: Seen, least: str) -> list[Difference]:
    """Return what the second has and the first has not, on the layouts that both have, at or above a severity."""
    found: dict[str, Difference] = {}
    for text in first.keys() & second.keys():
        for key in second[text].keys() - first[text].keys():
            if SEVERITIES.index(key.split(" ", 1)[0]) >= SEVERITIES.index(least):
                one = found.setdefault(key, Difference(key, [], second[text][key]))
                one.layouts.append(loads(text))
    for one in found.values():
        one.layouts.sort(key=lambda layout: len(dumps(layout)))
    return sorted(found.values(), key=lambda one: (-SEVERITIES.index(one.key.split(" ", 1)[0]), one.key))


def compare(pool: Pool, first: Spec, second: Spec, layouts: Iterable[Layout], least: str) -> Comparison:
    """
    Compare two kernels on layouts. Where they differ, both are repeated before it counts.

    :param least: The least severity that counts.
    """
    result = Comparison()
    a = seen_by(pool, first, layouts, result.failures)
    b = seen_by(pool, second, [loads(text) for text in a], result.failures)
    result.tried = len(a.keys() & b.keys())
    suspects = {
        dumps(layout) for one in (*differences(a, b, least), *differences(b, a, least)) for layout in one.layouts
    }
    for _ in range(REPEATS - 1):
        again = [loads(text) for text in sorted(suspects)]
        for spec, seen in ((first, a), (second, b)):
            for text, found in seen_by(pool, spec, again, result.failures).items():
                seen[text] = {**found, **seen[text]}
    result.new, result.gone = differences(a, b, least), differences(b, a, least)
    return result


def mail(result: Comparison, first: str, second: str, kernel: Path) -> str:
    """Return the comparison as a text for a mail."""
    lines = [f"{second} compared with {first} on {result.tried} physical memory layouts:", ""]
    if not result.new and not result.gone:
        lines.append("No difference in the memory maps.")
    for title, found in ((f"New with {second}", result.new), (f"Gone with {second}", result.gone)):
        if not found:
            continue
        lines += [f"{title}:", ""]
        for one in found:
            lines += [f"- {one.key}", f"  {one.example}", f"  on {len(one.layouts)} layouts, for example:"]
            lines += [f"  {brief(one.layouts[0])}", ""]
            if found is result.new:
                lines += [f"    {line}" for line in command(one.layouts[0], kernel).splitlines()] + [""]
    if result.failures:
        lines += ["", f"{len(result.failures)} trials failed in the harness, the first: {result.failures[0]}"]
    return "\n".join(lines).rstrip() + "\n"
