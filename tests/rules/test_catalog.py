# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalog of rules, and what the command rules prints of it."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mminspect.commands.triage.bugs import BUGS
from mminspect.rules.catalog import catalog_of, load_catalog
from mminspect.rules.commits import COMMITS
from mminspect.rules.registry import all_rules
from tests.conftest import Cli, Scanned, Unpacked
from tests.kit.examples import EXAMPLES, entry, make
from tests.kit.support import NAMES, ROOT, without_consequences

RULES = sorted(all_rules())


@pytest.mark.parametrize("rule", RULES)
def test_rule_says_what_it_means_with_an_example(rule: str) -> None:
    found = all_rules()[rule]
    assert found.id == rule
    assert found.checks
    assert found.summary
    assert "\n" not in found.summary
    assert len(found.documentation.split()) > 60
    assert "Example: " in found.documentation
    module = importlib.import_module(f"mminspect.rules.{rule.replace('-', '_')}")
    assert found.documentation == module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_rule_describes_each_detail(name: str, scanned: Scanned) -> None:
    for finding in scanned(name).findings:
        documentation = all_rules()[finding.rule].documentation
        for key in without_consequences(finding).detail:
            assert f"``{key}``" in documentation or f"``detail.{key}``" in documentation, (finding.rule, key)


def test_each_commit_is_there_once_with_its_title_and_release() -> None:
    titles = [title for title, _ in COMMITS.values()]
    assert len(set(titles)) == len(titles)
    for hash, (title, version) in COMMITS.items():
        assert re.fullmatch("[0-9a-f]{12}", hash)
        assert ":" in title
        assert re.fullmatch(r"v\d\.\d+", version)


def test_known_bugs_name_rules_that_exist() -> None:
    assert {rule for bug in BUGS for rule in bug.rules} <= set(RULES)


def test_each_commit_is_named_by_a_rule_or_a_known_bug() -> None:
    named = {commit.hash for rule in all_rules().values() for commit in rule.commits}
    named |= {commit.hash for bug in BUGS for commit in bug.commits}
    assert named == set(COMMITS)


@pytest.mark.parametrize("rule", RULES)
def test_rule_says_what_each_commit_has_to_do_with_it(rule: str) -> None:
    for commit in all_rules()[rule].commits:
        assert commit.title == COMMITS[commit.hash][0]
        assert re.search(rf"\w \({re.escape(COMMITS[commit.hash][1])}\)$", commit.what), commit


@pytest.mark.parametrize("rule", RULES)
def test_documentation_names_no_other_commit(rule: str) -> None:
    hashes = re.findall(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{12}\b", all_rules()[rule].documentation)
    assert set(hashes) <= set(COMMITS)


@pytest.mark.parametrize("rule", RULES)
def test_documentation_names_nothing_that_users_do_not_have(rule: str) -> None:
    assert not re.search(r"kernel facts|\bbugs? \d|invariant I\d", all_rules()[rule].documentation, re.IGNORECASE)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "unreadable"])
def test_rule_names_the_kernel_functions_it_endangers(rule: str) -> None:
    assert all(re.fullmatch(r"\w+", name) for name in all_rules()[rule].functions)
    assert all_rules()[rule].functions


# What explains findings, by what they are.
TRIAGE = ("bugs_of_boot.py", "bugs_at_run_time.py", "bugs_of_layout.py", "in_memory.py")
KNOWN = (*(Path("commands", "triage", name) for name in TRIAGE), Path("rules", "quirks.py"))


@pytest.mark.parametrize("rule", [rule for rule in RULES if "-" in rule])
def test_no_code_but_a_rules_own_and_the_known_bugs_asks_for_it(rule: str) -> None:
    """Those whose names are words of the kernel can't be told from these."""
    package = ROOT / "mminspect"
    files = {
        path.relative_to(package)
        for path in package.rglob("*.py")
        if re.search(f"""['"]{rule}['"]""", path.read_text(encoding="utf-8"))
    }
    assert files <= {Path("rules", f"{rule.replace('-', '_')}.py"), *KNOWN}


@pytest.mark.parametrize(
    "module",
    [f"mminspect.{name}" for name in ("findings", "rules.registry", "rules.base", "rules.commits")]
    + [f"mminspect.rules.{rule.replace('-', '_')}" for rule in RULES]
    + [f"mminspect.render.{path.stem}" for path in (ROOT / "mminspect" / "render").glob("[a-z]*.py")],
)
def test_rules_findings_and_renderers_need_no_drgn(module: str) -> None:
    code = f"import sys, {module}; sys.exit('_drgn' in sys.modules or 'drgn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rules_are_loaded_without_drgn() -> None:
    code = "import sys; from mminspect.rules.registry import all_rules; all_rules(); sys.exit('_drgn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rules_lists_them_all(cli: Cli) -> None:
    done = cli("rules")
    assert (done.status, done.err) == (0, "")
    for rule in all_rules().values():
        assert rule.id in done.out
        assert rule.summary in done.out


@pytest.mark.parametrize("rule", RULES)
def test_rules_of_one_tells_all_about_it(rule: str, cli: Cli) -> None:
    done = cli("rules", rule)
    assert (done.status, done.err) == (0, "")
    found = all_rules()[rule]
    assert found.documentation.strip().replace("``", "") in done.out
    assert "``" not in done.out
    assert all(name in done.out for name in found.functions)
    assert all(commit.hash in done.out and commit.title in done.out for commit in found.commits)


def test_rules_as_json(cli: Cli) -> None:
    data = cli("rules", "--format", "json").json()
    assert [rule["id"] for rule in data] == sorted(all_rules())
    assert all(set(rule) >= {"id", "summary", "documentation", "functions", "commits"} for rule in data)
    (one,) = cli("rules", "mixed-zone", "--format", "json").json()
    assert one in data


@pytest.mark.parametrize("rule", sorted(EXAMPLES))
def test_example_is_a_finding_of_its_vmcore(rule: str, unpacked: Unpacked, tmp_path: Path) -> None:
    copy = tmp_path / "core"
    copy.write_bytes(unpacked(EXAMPLES[rule].fixture).read_bytes())
    assert catalog_of(rule)["example"] == make(rule, copy), "run python -m tests.kit.examples"


def test_every_rule_of_vmcores_has_an_example() -> None:
    shown = {data["id"] for data in load_catalog() if data["example"] is not None}
    # A dump whose memmap were moved would have no struct pages where it says.
    assert shown == set(EXAMPLES) == set(all_rules()) - {"proc-disagrees", "memmap-alignment"}


def test_catalog_says_what_the_rules_say() -> None:
    stored = load_catalog()
    made = [entry(rule, data["example"]) for rule, data in zip(all_rules().values(), stored)]
    assert stored == json.loads(json.dumps(made)), "run python -m tests.kit.examples"


@pytest.mark.parametrize(
    "arguments", [("rules",), ("rules", "mixed-zone"), ("bugs",), ("zones", "--help"), ("--version",)]
)
def test_what_reads_no_memory_map_loads_neither_numpy_nor_drgn(arguments: tuple[str, ...]) -> None:
    code = "import sys; from mminspect.cli.run import run\ntry: run(tuple(sys.argv[1:]))\nexcept SystemExit: pass\n"
    code += "sys.exit(', '.join({'numpy', '_drgn'} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_rules_of_one_shows_its_example(cli: Cli) -> None:
    done = cli("rules", "free-list")
    assert "A finding in amd64-6.1-healthy.xz, where nr_free of order 10 was raised by one:\n  error 0x" in done.out
    assert cli("rules", "mixed-zone").out.count("A finding in i386-5.10-hole.xz:") == 1
    assert "A finding" not in cli("rules", "proc-disagrees").out
