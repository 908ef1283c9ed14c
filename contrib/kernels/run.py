# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run rows: boot, dump, scan with each source of types, and compare with truth from elsewhere."""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from contrib.kernels import agree
from contrib.kernels.boot import ELF
from contrib.kernels.errors import HarnessError
from contrib.kernels.initrd import Truth, parse_console
from contrib.kernels.row import Row, boot_row, debug_of

SCAN_SECONDS = 600
PAHOLE_SECONDS = 600
REFERENCE_PAGES = 1 << 21
"""The reference reads 0.1 to 0.2 million pages a second."""
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Types:
    """One source of types."""

    name: str
    vmlinux: Path | None = None
    btf: Path | None = None
    system_map: Path | None = None

    @property
    def options(self) -> list[str]:
        """Return mminspect's options for it."""
        words: list[str] = []
        for option, path in (("-s", self.vmlinux), ("--btf", self.btf), ("--system-map", self.system_map)):
            words += [option, str(path)] if path else []
        return words


@dataclass
class Result:
    """What became of one row."""

    row: Row
    truth: Truth | None = None
    reports: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON reports by the name of the source of types."""
    checks: dict[str, list[str]] = field(default_factory=dict)
    """Differences by the name of the check; a check that had nothing to compare isn't there."""
    problem: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def report(self) -> Mapping[str, Any] | None:
        """Return the first report."""
        return next(iter(self.reports.values()), None)

    @property
    def agrees(self) -> bool:
        """Return whether there is a report and nothing differs."""
        return bool(self.reports) and not self.problem and not any(self.checks.values())


def mminspect(words: Sequence[str], what: str, seconds: float, verdicts: bool = False) -> str:
    """
    Run mminspect as a user does.

    :param what: What it is, for messages.
    :param verdicts: Whether the exit status is a verdict, and failed only without output.
    :return: What it printed.
    :raises HarnessError: if it takes longer than that, or fails.
    """
    command = [sys.executable, "-m", "mminspect", *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise HarnessError(f"{what} took longer than {seconds} s") from None
    if done.returncode and not (verdicts and done.stdout):
        raise HarnessError(f"{what} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def scan(core: Path, types: Types) -> tuple[Mapping[str, Any], float]:
    """Scan a dump as a user does. Return the report and the seconds it took, start of Python and all."""
    words = ["-c", str(core), *types.options, "scan", "--format", "json", "--fail-on", "never"]
    start = time.monotonic()
    output = mminspect(words, f"the scan with {types.name}", SCAN_SECONDS)
    return json.loads(output), time.monotonic() - start


def triage(core: Path, types: Types) -> Mapping[str, Any]:
    """Triage a dump as a user does."""
    words = [*types.options, "triage", "--format", "json", str(core)]
    result: Mapping[str, Any] = json.loads(mminspect(words, "the triage", SCAN_SECONDS, verdicts=True))[0]
    return result


def lru_errors(core: Path, types: Types) -> agree.Differences:
    """Return what the rule for LRU lists finds, ``None`` if it couldn't follow them."""
    words = ["-c", str(core), *types.options, "scan", "--format", "json", "--fail-on", "never", "--select", "lru-list"]
    findings = json.loads(mminspect(words, "the scan of LRU lists", SCAN_SECONDS))["findings"]
    if any(finding["detail"]["problem"] == "unfinished" for finding in findings):
        return None
    return [finding["message"] for finding in findings if finding["severity"] != "note"]


def lacks_btf(error: HarnessError) -> bool:
    """Return whether a scan failed since the kernel carries no BTF."""
    return "no BTF" in str(error) or "no type information" in str(error)


def make_btf(vmlinux: Path, directory: Path) -> Types:
    """Make BTF and a System.map of a kernel that carries none, with pahole and nm."""
    btf, system_map = directory / "vmlinux.btf", directory / "System.map"
    try:
        subprocess.run(
            ["pahole", f"--btf_encode_detached={btf}", str(vmlinux)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PAHOLE_SECONDS,
            check=True,
        )
        names = subprocess.run(["nm", "-n", str(vmlinux)], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise HarnessError(f"{error.filename} is not installed; install dwarves and binutils") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise HarnessError(f"no BTF could be made: {error}") from None
    lines = [line for line in names.splitlines() if re.match(r"[0-9a-f]+ [^Uw] ", line)]
    system_map.write_text("\n".join(lines) + "\n")
    return Types("btf (pahole)", None, btf, system_map)


def core_name(row: Row) -> str:
    """Return the name of the file with a row's dump."""
    return f"{row.name}.{'elf' if row.format == ELF else 'kdump'}"


def dumped(row: Row, directory: Path, again: bool) -> tuple[Path, Truth, str]:
    """Return a row's dump, what its guest printed, and the whole console. Boot the row if there is no dump."""
    core = directory / core_name(row)
    log = core.with_name(core.name + ".log")
    if again or not core.exists() or not log.exists():
        boot_row(row, core)
    console = log.read_text(errors="replace")
    return core, parse_console(console), console


def run_scans(result: Result, core: Path, vmlinux: Path | None, scratch: Path) -> dict[str, Types]:
    """Scan with BTF alone and, where there is a vmlinux, with DWARF. Return the sources that were used."""
    used: dict[str, Types] = {}

    def one(types: Types) -> None:
        report, seconds = scan(core, types)
        result.reports[types.name], result.seconds[types.name] = report, seconds
        used[types.name] = types

    try:
        one(Types("btf"))
    except HarnessError as error:
        if not lacks_btf(error):
            raise
        if vmlinux:
            one(make_btf(vmlinux, scratch))
    if vmlinux:
        one(Types("dwarf", vmlinux))
    if not used:
        raise HarnessError("the kernel has no BTF and there is no vmlinux with DWARF")
    return used


def run_checks(result: Result, core: Path, types: Mapping[str, Types], console: str) -> None:
    """Compare the reports with each other and with everything that the guest said."""
    truth, report = result.truth, result.report
    assert truth is not None and report is not None
    result.checks["zones"] = agree.compare(report, truth)
    reports = list(result.reports.values())
    if len(reports) > 1:
        result.checks["types"] = agree.compare_reports(*reports)
    if agree.named_pfns(console):
        add(result, "last words", agree.compare_last_words(console, report))
    used = types.get("dwarf") or next(iter(types.values()))
    if not result.row.pokes:
        add(result, "lru lists", lru_errors(core, used))
    if result.row.verdict:
        add(result, "triage", agree.compare_triage(triage(core, used), result.row.verdict, console))
    with agree.opened(core, used.vmlinux, used.btf, used.system_map) as kernel:
        add(result, "ram", agree.compare_ram(kernel, truth))
        if not result.row.pokes:
            # The guest counted its pageblocks before its struct pages were changed.
            add(result, "blocks", agree.compare_blocks(kernel, truth))
        add(result, "pages", agree.compare_pages(kernel, truth))
        if used.vmlinux:
            add(result, "reference", agree.compare_reference(kernel, truth, report, REFERENCE_PAGES))


def add(result: Result, name: str, differences: agree.Differences) -> None:
    """Note what a check found, if it had anything to compare."""
    if differences is not None:
        result.checks[name] = differences


def run_row(row: Row, directory: Path | None, debug: bool, again: bool) -> Result:
    """Run one row. What goes wrong is part of the result."""
    result = Result(row)
    with tempfile.TemporaryDirectory(prefix="mminspect-") as temporary:
        scratch = Path(temporary)
        try:
            core, result.truth, console = dumped(row, directory or scratch, again)
            vmlinux = debug_of(row, result.truth.release) if debug else None
            types = run_scans(result, core, vmlinux, scratch)
            run_checks(result, core, types, console)
        except HarnessError as error:
            result.problem = str(error)
        except Exception as error:  # one row must not end the others
            result.problem = f"{type(error).__name__}: {error}"
    return result


def count_findings(report: Mapping[str, Any]) -> str:
    """Return the numbers of errors, warnings and notes."""
    by_severity = report["summary"]["by_severity"]
    return "/".join(str(by_severity[severity]) for severity in SEVERITIES)


def agreement(result: Result) -> str:
    """Return which checks agree, and loudly which don't."""
    if result.problem:
        return "FAILED"
    bad = [name for name, lines in result.checks.items() if lines]
    good = [name for name, lines in result.checks.items() if not lines]
    return "DISAGREES: " + ", ".join(bad) if bad else ", ".join(good)


HEADERS = (
    "row",
    "kernel",
    "machine",
    "memory model",
    "page size",
    "order",
    "types from",
    "pages",
    "findings",
    "agreement",
    "seconds",
    "day",
)


def table_row(result: Result) -> list[str]:
    """Return a result as a row of the table."""
    report = result.report
    if report is None:
        release = result.truth.release if result.truth else ""
        return [result.row.name, release, result.row.source.arch, *[""] * 6, agreement(result), "", today()]
    target = report["target"]
    return [
        result.row.name,
        target["release"],
        target["machine"],
        target["memory_model"],
        str(target["page_size"]),
        str(target["pageblock_order"]),
        ", ".join(result.reports),
        str(report["summary"]["pages_examined"]),
        count_findings(report),
        agreement(result),
        ", ".join(f"{seconds:.1f}" for seconds in result.seconds.values()),
        today(),
    ]


def today() -> str:
    """Return the day."""
    return datetime.date.today().isoformat()


def details(results: Iterable[Result]) -> list[str]:
    """Return the differences and problems of all rows, a line each."""
    lines = []
    for result in results:
        if result.problem:
            lines.append(f"{result.row.name}: {result.problem}")
        lines += [f"{result.row.name}: {name}: {line}" for name, found in result.checks.items() for line in found]
    return lines


def versions() -> str:
    """Return the versions that the results depend on."""
    from importlib.metadata import version

    programs = [f"{name} {version(name)}" for name in ("mminspect", "drgn", "numpy")]
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\S+)", qemu.stdout)
    programs += [f"QEMU {match.group(1)}"] if match else []
    return ", ".join([*programs, f"Python {platform.python_version()}"])


def rows_of(page: str, first: str) -> dict[str, list[str]]:
    """
    Return the rows of a table of a page, by their first cell.

    :param first: How the table's heading begins.
    """
    rows: dict[str, list[str]] = {}
    inside = False
    for line in page.splitlines():
        inside = line.startswith("|") and (inside or re.sub(r"\s+", " ", line).startswith(first))
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if inside and not set(line) <= set("|-: ") and not re.sub(r"\s+", " ", line).startswith(first):
            rows[cells[0]] = cells
    return rows


def markdown(results: Sequence[Result], before: str = "") -> str:
    """
    Return the results as a page of documentation.

    :param before: The page as it was. Its rows that weren't run now are kept.
    """
    made = re.search(r"Made on (\S+) by", before)
    day = made.group(1) if made else ""
    width = len(HEADERS)
    kept = {name: (cells + [day] * width)[:width] for name, cells in rows_of(before, "| row | kernel |").items()}
    guests = rows_of(before, "| row | what it shows |")
    rows = {**kept, **{result.row.name: table_row(result) for result in results}}
    guests.update({r.row.name: [r.row.name, r.row.note, f"`{guest_words(r.row)}`"] for r in results})
    good = sum(not cells[HEADERS.index("agreement")].startswith(("DISAGREES", "FAILED")) for cells in rows.values())
    lines = [
        "# The matrix",
        "",
        f"{good} of {len(rows)} rows agree. Made by `python -m contrib.kernels run --markdown fixtures/MATRIX.md "
        f"[ROW...]`, each row on its day, the last ones with {versions()}.",
        "",
        "Findings are errors/warnings/notes; `docs/stock-kernels.md` explains those of stock kernels. Seconds are "
        "those of each scan as a user starts it, in the order of the types; others who use the machine make them upper "
        "bounds. Debian's archive has no modules of 6.19, 7.0 and 7.1, which such a guest needs. Where a kernel's "
        "vmlinux wasn't at hand, the types are from BTF alone, and neither `types` nor `reference` was compared.",
        "",
        "| agreement | what mminspect was compared with |",
        "|---|---|",
        *(f"| {name} | {text} |" for name, text in CHECKS.items()),
        "",
        tabulate(list(rows.values()), HEADERS, tablefmt="github", disable_numparse=True),
        "",
        "## What the guests are",
        "",
        tabulate(list(guests.values()), ("row", "what it shows", "guest"), tablefmt="github"),
        "",
    ]
    wrong = details(results)
    if wrong:
        lines += ["## What disagrees", "", *(f"- {line}" for line in wrong), ""]
    return "\n".join(lines)


CHECKS = {
    "zones": "`/proc/zoneinfo`, page size, and the order in `/proc/pagetypeinfo`",
    "types": "the report with the other source of types: the same findings",
    "ram": "System RAM in `/proc/iomem`: online, and in a zone",
    "blocks": "pageblocks of each migratetype in `/proc/pagetypeinfo`",
    "pages": "`/proc/kpageflags` of every page: online or not, PG_reserved or not",
    "reference": "`tests/kit/reference.py`, which reads one drgn object per page",
    "lru lists": "`mminspect scan --select lru-list` of a guest at rest: nothing",
    "last words": "the pfns that the kernel named when it panicked",
}


def guest_words(row: Row) -> str:
    """Return how a row's guest differs from others, as on QEMU's and the kernel's command lines."""
    words = [f"-m {row.memory}", *row.qemu_args]
    words += [f"-append '{row.append}'"] if row.append else []
    text = " ".join(words).replace("|", "\\|")
    return text if len(text) <= 200 else text[:197] + "..."


def run_rows(
    rows: Sequence[Row], directory: Path | None, debug: bool, again: bool, say: Callable[[str], None]
) -> list[Result]:
    """Run rows one after the other."""
    results = []
    for row in rows:
        say(f"{row.name} ...")
        result = run_row(row, directory, debug, again)
        for line in details([result]):
            say(f"  {line}")
        results.append(result)
    return results
