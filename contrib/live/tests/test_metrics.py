# SPDX-License-Identifier: LGPL-2.1-or-later
"""The metrics of a stored vmcore, judged by Prometheus' own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contrib.live.rootfs import CHECKOUT

FIXTURE = CHECKOUT / "fixtures" / "vmcores" / "amd64-7.2-numa.xz"
README = CHECKOUT / "contrib" / "node_exporter" / "README.md"


@pytest.fixture(name="metrics", scope="module")
def metrics_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the metrics of a scan."""
    if not FIXTURE.exists():
        pytest.skip(f"{FIXTURE.name} is not there")
    out = tmp_path_factory.mktemp("metrics") / "mminspect.prom"
    command = [sys.executable, "-m", "mminspect", "-c", str(FIXTURE), "scan", "--format", "prometheus"]
    command += ["--fail-on", "never", "-o", str(out)]
    subprocess.run(command, cwd=CHECKOUT, check=True, timeout=120)
    return out


def promtool(kind: str, text: str, *words: str) -> None:
    """Let promtool check something."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    command = ["promtool", "check", kind, *words]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool(metrics: Path) -> None:
    """promtool finds nothing to complain about, names and help texts included."""
    promtool("metrics", metrics.read_text())


def test_parser(metrics: Path) -> None:
    """The parser of the Python client reads every documented metric, with its labels and type."""
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    families = {family.name: family for family in parser.text_string_to_metric_families(metrics.read_text())}
    documented = re.findall(r"(?m)^\| `(\w+)(?:\{([\w,]+)\})?` \| (\w+)", README.read_text())
    assert len(documented) == 4
    for name, labels, kind in documented:
        assert families[name].type == kind
        assert families[name].samples
        for sample in families[name].samples:
            assert ",".join(sample.labels) == labels


def test_rules(tmp_path: Path) -> None:
    """The alerting rules in the README are ones that Prometheus takes."""
    text = next(part for part in README.read_text().split("```") if part.lstrip().startswith("groups:"))
    path = tmp_path / "rules.yml"
    path.write_text(text)
    promtool("rules", "", str(path))
