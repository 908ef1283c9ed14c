# SPDX-License-Identifier: LGPL-2.1-or-later
"""Different bugs are in different groups."""

from __future__ import annotations

import lzma
from collections import defaultdict
from pathlib import Path

import pytest

from mminspect.kernel.inputs import Inputs
from mminspect.kernel.kernel import open_kernel
from mminspect.walk.scan import scan
from tests.conftest import Plant
from tests.fleet.test_fleet import read_path
from tests.kit.planted import Fault
from tests.kit.support import AMD64_HEALTHY, VMCORES

pytest.importorskip("distributed")
pytest.importorskip("duckdb")


def test_no_two_bugs_of_stock_kernels_have_a_signature_in_common(tmp_path: Path) -> None:
    """What guests of stock kernels have in memory."""
    bugs: dict[str, set[str]] = defaultdict(set)
    for packed in sorted(VMCORES.glob("*.xz")):
        core = tmp_path / packed.stem
        core.write_bytes(lzma.decompress(packed.read_bytes()))
        with open_kernel(Inputs(str(core))) as kernel:
            for finding in scan(kernel).findings:
                if finding.known is not None:
                    bugs[finding.signature].add(finding.known["id"])
        core.unlink()
    assert len({bug for found in bugs.values() for bug in found}) > 6
    assert {signature: found for signature, found in bugs.items() if len(found) > 1} == {}


def test_no_two_faults_have_a_signature_in_common(plant: Plant) -> None:
    signatures = []
    for number, break_ in enumerate((zeroed, poisoned, elsewhere, garbage)):
        fault = plant(AMD64_HEALTHY)
        break_(fault)
        path = fault.editor.path.rename(fault.editor.path.with_name(f"fault-{number}"))
        signatures.append(read_path(str(path))[-1]["signature"])
    assert None not in signatures
    assert len(set(signatures)) == len(signatures), signatures


def zeroed(fault: Fault) -> None:
    """Let pages be as if nobody had initialized them."""
    fault.fill(0x4000, 0x4040, 0)


def poisoned(fault: Fault) -> None:
    """Let pages be as memblock poisons them."""
    fault.fill(0x4000, 0x4040, 0xFF)


def elsewhere(fault: Fault) -> None:
    """Let pages link to a zone that doesn't span them."""
    fault.link(0x4000, 0x4040, 0, 0)


def garbage(fault: Fault) -> None:
    """Let pages link to a zone that there isn't."""
    fault.link(0x4000, 0x4040, 0, 7)
