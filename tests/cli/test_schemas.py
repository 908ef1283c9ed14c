# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the commands without a schema of their own tests write is as the schemas in the package say."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.conftest import Cli, Unpacked
from tests.kit.support import ROOT, VMCORES

SCHEMAS = ROOT / "mminspect" / "schemas"


def check(name: str, data: Any) -> None:
    """Validate data, and the schema itself."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(data)


@pytest.mark.parametrize("core", sorted(path.stem for path in VMCORES.glob("*.xz")))
def test_zones_and_pages_of_every_vmcore(core: str, cli: Cli, unpacked: Unpacked) -> None:
    path = unpacked(core)
    zones = cli("-c", path, "zones", "--format", "json").json()
    check("zones-1", zones)
    # Pages at the edges of zones, where most can differ.
    edges = sorted({pfn for zone in zones["zones"] for pfn in (zone["start_pfn"], zone["end_pfn"] - 1)})
    for pfn in edges[:: max(1, len(edges) // 3)]:
        for brief in ([], ["--brief"]):
            done = cli("-c", path, "page", "--format", "json", *brief, hex(pfn))
            if done.status == 0:
                check("page-1", done.json())


def test_rules_and_bugs(cli: Cli) -> None:
    check("rules-1", cli("rules", "--format", "json").json())
    check("rules-1", cli("rules", "mixed-zone", "--format", "json").json())
    check("bugs-1", cli("bugs", "--format", "json").json())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("zones-1", {"nodes": [], "zones": [{"node": 0}], "sections": [], "holes": []}),
        ("page-1", {"start_pfn": 1, "end_pfn": 2, "understood_as": "name", "pages": []}),
        ("page-1", {"start_pfn": 1, "end_pfn": 2, "understood_as": "pfn", "pages": [{"pfn": -1}]}),
        ("rules-1", [{"id": "mixed-zone"}]),
        ("bugs-1", [{"id": 5}]),
    ],
)
def test_other_data_is_refused(name: str, data: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(name, data)


def test_every_schema_is_named_in_the_documents() -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    assert {path.name for path in SCHEMAS.iterdir()} == {
        path.name for path in SCHEMAS.iterdir() if f"schemas/{path.name}" in text
    }
