# SPDX-License-Identifier: LGPL-2.1-or-later
"""``mminspect triage`` of vmcores and logs, mixed, packed, and through the standard input."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import jsonschema
import pytest
import zstandard

from mminspect.commands.triage import inputs
from tests.commands.triage import faults
from tests.conftest import Cli, Unpacked
from tests.kit.support import AMD64_HEALTHY, ROOT, elf_core

BUG, SYSRQ = "amd64-5.10-bug", "amd64-6.12-sysrq"
SCHEMA = json.loads((ROOT / "mminspect" / "schemas" / "triage-1.json").read_text())
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
LOG = faults.ARM64_6_6.encode()


def check(results: Any) -> Any:
    """Check results against the schema."""
    jsonschema.Draft202012Validator(SCHEMA).validate(results)
    return results


def from_stdin(data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a triage of the standard input."""
    command = [sys.executable, "-m", "mminspect", "triage", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Write a log of a kernel that died on struct pages. Its name says nothing."""
    path = tmp_path / "file"
    path.write_bytes(LOG)
    return path


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_refuses_what_the_contract_does() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for wrong in ([{"path": "a"}], [{"schema": "mminspect.triage/1"}], {}, [{"path": "a", "error": 1}]):
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_log_is_known_by_its_content(packer: str, log: Path, cli: Cli) -> None:
    (plain,) = check(cli("triage", "--format", "json", log).json())
    log.write_bytes(PACKERS[packer](LOG))
    done = cli("triage", "--format", "json", log)
    assert (done.status, done.err) == (0, "")
    assert check(done.json()) == [plain]
    assert (plain["source"], plain["verdict"]) == ("log", "struct pages")
    assert plain["target"] is plain["summary"] is None


def test_several_packed_streams_in_one_file_are_one_log(log: Path, cli: Cli) -> None:
    half = LOG.index(b"\n", len(LOG) // 2) + 1
    (plain,) = cli("triage", "--format", "json", log).json()
    for name in ("gzip", "xz", "bzip2", "zstd"):
        log.write_bytes(PACKERS[name](LOG[:half]) + PACKERS[name](LOG[half:]))
        assert cli("triage", "--format", "json", log).json() == [plain], name


@pytest.mark.parametrize("packer", PACKERS)
def test_the_standard_input_is_a_log_too(packer: str) -> None:
    done = from_stdin(PACKERS[packer](LOG), "-", "--format", "json")
    (result,) = check(json.loads(done.stdout))
    assert (done.returncode, result["path"], result["verdict"]) == (0, "-", "struct pages")


def test_a_vmcore_on_the_standard_input_must_be_a_file(unpacked: Unpacked) -> None:
    done = from_stdin(unpacked(SYSRQ).read_bytes()[: 1 << 20], "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"save it to a file" in done.stderr
    with unpacked(SYSRQ).open("rb") as file:
        command = [sys.executable, "-m", "mminspect", "triage", "--format", "json", "-"]
        run = subprocess.run(command, stdin=file, capture_output=True, check=True, timeout=60)
    (result,) = check(json.loads(run.stdout))
    assert (result["source"], result["path"], result["verdict"]) == ("vmcore", "-", "other")


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != "plain"])
def test_packed_logs_that_are_cut_short_are_no_answer(packer: str, log: Path, cli: Cli) -> None:
    packed = PACKERS[packer](LOG)
    log.write_bytes(packed[: len(packed) // 2])
    done = cli("triage", log)
    assert (done.status, done.out) == (2, "")
    assert "damaged or cut short" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("packer", ["gzip", "xz", "bzip2", "zstd"])
def test_a_log_that_unpacks_to_very_much_is_refused(packer: str, log: Path, cli: Cli, monkeypatch: Any) -> None:
    monkeypatch.setattr(inputs, "MAX_UNPACKED", 1 << 20)
    log.write_bytes(PACKERS[packer](b"a line\n" * (1 << 19)))
    done = cli("triage", log)
    assert (done.status, done.out) == (2, "")
    assert "longer than 1 MiB" in done.err


def test_of_a_long_log_the_end_is_read(log: Path, cli: Cli, monkeypatch: Any) -> None:
    monkeypatch.setattr(inputs, "MAX_BYTES", 1 << 20)
    for packer in ("plain", "gzip"):
        log.write_bytes(PACKERS[packer](b"usb 1-1: a device\n" * 300_000 + LOG))
        (result,) = cli("triage", "--format", "json", log).json()
        assert result["verdict"] == "struct pages"


@pytest.mark.parametrize("data", [bytes(range(256)) * 40, b"\x89PNG\r\n\x1a\n" + bytes(2000), b""])
def test_what_is_neither_a_vmcore_nor_a_log_is_refused(data: bytes, log: Path, cli: Cli) -> None:
    log.write_bytes(data)
    done = cli("triage", log)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1


def test_a_program_is_no_vmcore(log: Path, cli: Cli) -> None:
    log.write_bytes(elf_core([], [(0x1000, b"data")]))
    assert "no VMCOREINFO" in cli("triage", log).err


def test_vmcores_and_logs_mixed(log: Path, unpacked: Unpacked, cli: Cli, tmp_path: Path) -> None:
    done = cli("triage", "--format", "json", log, unpacked(BUG), unpacked(SYSRQ))
    assert [(result["source"], result["verdict"]) for result in check(done.json())] == [
        ("log", "struct pages"),
        ("vmcore", "explained"),
        ("vmcore", "other"),
    ]
    assert done.status == 1
    missing = tmp_path / "missing"
    done = cli("triage", "--format", "ndjson", log, missing, unpacked(BUG))
    results = [json.loads(line) for line in done.out.splitlines()]
    assert check(results)[1] == {"path": str(missing), "error": f"{missing}: No such file or directory"}
    assert done.status == 2


def test_several_files_have_a_table_first(
    log: Path, unpacked: Unpacked, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("triage", log, unpacked(SYSRQ), log.parent / "missing").out.splitlines()
    assert lines[0].split() == ["verdict", "kind", "where", "file"]
    assert lines[2].startswith("struct pages ") and lines[2].endswith(f" {log}")
    assert lines[3].startswith("other ") and lines[3].endswith(f" {unpacked(SYSRQ)}")
    assert lines[4].startswith("error ") and lines[4].endswith("missing")
    assert lines[5] == ""
    assert "file" not in cli("triage", log).out.splitlines()[0].split()


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ([BUG], 1),
        ([SYSRQ], 0),
        # Nothing of the log is in this capture.
        ([AMD64_HEALTHY], 2),
        ([BUG, SYSRQ], 1),
        ([BUG, AMD64_HEALTHY], 2),
    ],
)
def test_exit_status_follows_the_verdict(names: list[str], status: int, unpacked: Unpacked, cli: Cli) -> None:
    assert cli("triage", *map(unpacked, names)).status == status


def test_fail_on_is_gone(unpacked: Unpacked, cli: Cli) -> None:
    done = cli("triage", "--fail-on", "note", unpacked(SYSRQ))
    assert done.status == 2
    assert "--fail-on" in done.err


def test_another_log_in_place_of_the_dumps(log: Path, unpacked: Unpacked, cli: Cli) -> None:
    (own,) = check(cli("triage", "--format", "json", unpacked(SYSRQ)).json())
    log.write_text(faults.X86_GPF_6_12)
    (other,) = check(cli("triage", "--format", "json", "--log", log, unpacked(SYSRQ)).json())
    assert other["target"] == own["target"]
    assert "general protection" in other["crash"]["reason"]
    assert "sysrq" not in json.dumps(other["reports"])


def test_misuse_of_the_log_option(log: Path, unpacked: Unpacked, cli: Cli) -> None:
    for arguments in (
        ("--log", log, unpacked(SYSRQ), unpacked(BUG)),
        ("--log", log, log),
        ("--log", unpacked(BUG), unpacked(SYSRQ)),
        ("--log", "-", "-"),
        ("--log", log),
    ):
        done = cli("triage", *arguments)
        assert (done.status, done.out) == (2, ""), arguments
        assert done.err.count("\n") == 1


def test_core_before_the_command(unpacked: Unpacked, cli: Cli) -> None:
    assert cli("-c", unpacked(BUG), "triage").status == 1
    assert cli("triage").status == 2


def test_a_pipe_with_a_name_is_a_log_too(tmp_path: Path) -> None:
    command = f"{sys.executable} -m mminspect triage --format json <(cat {tmp_path / 'log'})"
    (tmp_path / "log").write_bytes(LOG)
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)[0]["verdict"] == "struct pages"


def test_what_c_names_is_no_log(log: Path, cli: Cli) -> None:
    done = cli("-c", log, "triage")
    assert (done.status, done.out) == (2, "")
    assert "not a vmcore" in done.err


def test_text_of_a_log(log: Path, cli: Cli) -> None:
    text = cli("triage", log).out
    assert text.startswith(f"{log}: a log")
    for part in ("The kernel died on struct pages.", "Last words", "a vmcore (set up kdump)"):
        assert part in text


def test_known_bugs_of_a_kernel(cli: Cli) -> None:
    every = cli("bugs", "--format", "json").json()
    some = cli("bugs", "--kernel", "5.10.0", "--format", "json").json()
    assert len(every) > len(some) > 0
    assert {"has it", "may have it"} == {bug["status"] for bug in some}
    by_id = {bug["id"]: bug for bug in every}
    first = by_id["holes-in-zone-0"]
    assert (first["introduced"], first["fixed"]) == ("5.8", "5.12")
    assert first["commits"][0]["hash"] == "0740a50b9baa"
    assert "holes-in-zone-0" not in {bug["id"] for bug in cli("bugs", "--kernel", "5.4.1", "--format", "json").json()}
    text = cli("bugs").out
    assert all(f"{name}: " in text for name in by_id)
    done = cli("bugs", "--kernel", "newest")
    assert (done.status, done.out) == (2, "")
