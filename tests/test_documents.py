# SPDX-License-Identifier: LGPL-2.1-or-later
"""The documents: complete, true where that can be checked, and without broken links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.__main__ import HEAD
from tests.conftest import Cli
from tests.kit.documents import FLOW, MADE, README, ROOT, replaced

USAGE = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
JSON = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "build" for part in path.relative_to(ROOT).parts)
)
WRITTEN = [path for path in DOCUMENTS if path.name != "MATRIX.md"]
# Objects whose keys are names of something else, and the keys of detail that don't depend on the rule.
NAMES = ("by_rule", "registers", "skipped")
DETAIL = ("consequences", "consequences_abridged", "severity_by_rule")
# Spellings that are not American, beside identifiers of the kernel and keys of JSON that have them.
BRITISH = re.compile(
    r"\w*(?:itialis|ecognis|rganis|ummaris|erialis|ptimis|ormalis|inimis|ynchronis|nalys(?:e[ds]|ing)|olour|ehaviour"
    r"|eighbour|avour|onour|entre\b|artefact|catalogue|programme\b)\w*"
)
ALLOWED = {"early_page_initialised", "neighbours"}
VMCORES = sorted(path.name for path in (ROOT / "fixtures" / "vmcores").glob("*.xz"))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """Get the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL))


def test_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= 100


@pytest.mark.parametrize("name", MADE)
def test_made_part_is_what_it_is_made_of(name: str) -> None:
    path, make = MADE[name]
    assert read(path) == replaced(name, read(path), make()), "run python -m tests.kit.documents"


def test_tree_has_every_folder() -> None:
    assert set(FLOW) == {path.parent.name for path in (ROOT / "mminspect").glob("*/__init__.py")}


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(read(path)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(read(target)), link


@pytest.mark.parametrize("path", WRITTEN, ids=shown)
def test_spelling_is_american(path: Path) -> None:
    text = re.sub(r"<!-- example.*?<!-- end of example -->|<!-- rules.*?of rules -->", "", read(path), flags=re.DOTALL)
    text = re.sub(r"<!-- tree.*?of tree -->", "", text, flags=re.DOTALL)
    assert set(BRITISH.findall(text)) <= ALLOWED


def test_performance_is_in_the_words_of_the_command_that_writes_it() -> None:
    assert read(ROOT / "docs" / "performance.md").startswith(HEAD)


def commands(cli: Cli) -> list[str]:
    return re.findall(r"^  (\w+)  +\S", cli("--help").out.split("Commands:")[1], re.MULTILINE)


def section(command: str) -> str:
    """Get a section of the document."""
    return USAGE.split(f"\n## {command}\n")[1].split("\n## ")[0]


def test_every_command_is_documented(cli: Cli) -> None:
    found = commands(cli)
    assert len(found) == 11
    for command in found:
        assert section(command)
        assert f"| `{command}" in read(README)


def help_of(command: str, cli: Cli) -> str:
    """Get the help of a command and of those in it."""
    text = cli(command, "--help").out
    inner = re.findall(r"^  (\w+)  +\S", text.partition("Commands:")[2], re.MULTILINE)
    return text + "".join(cli(command, name, "--help").out for name in inner)


def options(text: str) -> set[str]:
    """Get the options that a help text lists, but for the one that shows it."""
    lines = re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE)
    return {name for line in lines for name in re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)} - {"-h", "--help"}


def test_every_option_is_documented(cli: Cli) -> None:
    assert len(options(cli("--help").out)) == 12
    for option in options(cli("--help").out):
        assert f"`{option}" in USAGE.split("\n## scan\n")[0], option
    for command in commands(cli):
        for option in options(help_of(command, cli)):
            assert re.search(rf"`{option}\b", section(command).replace("\n", " ")), (command, option)


def test_every_choice_is_documented(cli: Cli) -> None:
    for command in commands(cli):
        text = re.sub(r"\\|\n", "", section(command))
        for choices in re.findall(r"\[([\w-]+(?:\|[\w-]+)+)\]", help_of(command, cli)):
            assert choices in text, (command, choices)


@pytest.mark.parametrize("status", [0, 1, 2, 129, 130, 143])
def test_every_exit_status_is_documented(status: int) -> None:
    assert re.search(rf"^\| {status} \| ", USAGE, re.MULTILINE)


def keys(data: Any, inside: str = "") -> Iterator[str]:
    """Go through the keys of JSON data, but for those that are names and those that a rule documents."""
    for value in data if isinstance(data, list) else ():
        yield from keys(value, inside)
    for key, value in data.items() if isinstance(data, dict) else ():
        if inside == "detail" and key not in DETAIL:
            continue
        if inside not in NAMES:
            yield key
        yield from keys(value, key)


@pytest.mark.parametrize("name", VMCORES)
def test_every_key_of_json_is_documented(name: str, cli: Cli) -> None:
    path = ROOT / "fixtures" / "vmcores" / name
    report = cli("-c", path, "scan", "--format", "json").json()
    found = set(keys(report)) | set(keys(cli("-c", path, "zones", "--format", "json").json()))
    found |= set(keys(cli("triage", "--format", "json", path).json()))
    # A page of the first zone, and one of each rule that found something.
    pfns = {finding["rule"]: finding["start_pfn"] for finding in report["findings"]}
    pfns["zone"] = report["zones"][0]["start_pfn"]
    for pfn in set(pfns.values()):
        done = cli("-c", path, "page", pfn, "--format", "json")
        found |= set(keys(done.json())) if done.status == 0 else set()
    assert not {key for key in found if f"`{key}`" not in JSON}


def test_every_key_of_rules_is_documented(cli: Cli) -> None:
    found = {key for rule in cli("rules", "--format", "json").json() for key in keys(rule)}
    assert not {key for key in found if f"`{key}`" not in JSON}
