# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does what mminspect reads out of a dump agree with what the guest said, and with a reading page by page?

Each check returns the differences as lines of text, or None where the guest printed nothing to compare with. All
checks but the first read the dump through mminspect as a library.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from contrib.kernels.errors import HarnessError
from contrib.kernels.initrd import ConsoleZone, Truth

if TYPE_CHECKING:
    from drgn import Program

    from mminspect.kernel.kernel import Kernel
    from mminspect.memorymap.zones import Zone

MANAGED_SLACK_PAGES = 1024
"""How far managed pages may move between the guest's print and the dump."""
TYPE_SLACK_BLOCKS = 8
"""How many pageblocks may change their migratetype between the guest's print and the dump."""
SUBSECTION_BYTES = 2 << 20
MOST_LINES = 5
"""More differences of one kind than this are counted, not listed."""

Differences = Optional[list[str]]


def populated(report: Mapping[str, Any]) -> dict[tuple[int, str], Mapping[str, Any]]:
    """Return a report's zones that hold or span something, by node and name."""
    return {(zone["node"], zone["name"]): zone for zone in report["zones"] if zone["spanned"] or zone["present"]}


def compare_zone(found: Mapping[str, Any], truth: ConsoleZone) -> list[str]:
    """Return how one zone of a report differs from what the guest printed."""
    expected = {"spanned": truth.spanned, "present": truth.present}
    if truth.start_pfn is not None:
        expected["start_pfn"] = truth.start_pfn
        expected["end_pfn"] = truth.start_pfn + truth.spanned
    where = f"node {truth.node} zone {truth.name}"
    differences = [
        f"{where}: {key} is {found[key]}, the guest says {value}"
        for key, value in expected.items()
        if found[key] != value
    ]
    if abs(found["managed"] - truth.managed) > MANAGED_SLACK_PAGES:
        differences.append(f"{where}: managed is {found['managed']}, the guest says {truth.managed}")
    return differences


def compare(report: Mapping[str, Any], truth: Truth) -> list[str]:
    """Return how a JSON report of mminspect differs from what the guest printed.

    Nothing is left out by either side: each zone of the guest must be in the report and the other
    way round. Pages that are managed may move a little between the print and the dump.
    """
    target = report["target"]
    expected = {
        "release": truth.release,
        "page_size": truth.page_size,
        "pageblock_order": truth.pageblock_order,
    }
    differences = [
        f"{key} is {target.get(key)}, the guest says {value}"
        for key, value in expected.items()
        if target.get(key) != value
    ]
    zones = populated(report)
    for zone in truth.zones:
        found = zones.pop((zone.node, zone.name), None)
        if found is not None:
            differences += compare_zone(found, zone)
        elif zone.spanned or zone.present:
            differences.append(f"node {zone.node} zone {zone.name} is missing")
    differences += [f"node {node} zone {name} is not the guest's" for node, name in zones]
    return differences


@contextlib.contextmanager
def opened(core: Path, vmlinux: Path | None, btf: Path | None, system_map: Path | None) -> Iterator[Kernel]:
    """Open a dump as mminspect does."""
    from mminspect.kernel.inputs import Inputs
    from mminspect.kernel.kernel import open_kernel

    symbols = (str(vmlinux),) if vmlinux else ()
    inputs = Inputs(str(core), symbols, str(btf) if btf else None, str(system_map) if system_map else None)
    with open_kernel(inputs) as kernel:
        yield kernel


def shorten(lines: Sequence[str]) -> list[str]:
    """Return the first lines, and how many more there are."""
    rest = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], f"and {rest} more"] if rest > 0 else list(lines)


def offline_pfns(truth: Truth) -> list[tuple[int, int]]:
    """Return the pfn ranges of the memory blocks that are not online."""
    if not truth.block_bytes:
        return []
    pages = truth.block_bytes // truth.page_size
    return [(number * pages, (number + 1) * pages) for number in truth.offline_blocks]


def compare_ram(kernel: Kernel, truth: Truth) -> Differences:
    """Compare System RAM of /proc/iomem with the online pages and with the zones.

    Each whole page of System RAM must be online unless its memory block is offline, and, but for pfn 0
    of x86, some zone must span it.
    """
    if not truth.system_ram:
        return None
    from mminspect.memorymap.ranges import merge, subtract

    ram = merge((-(-start // truth.page_size), end // truth.page_size) for start, end in truth.system_ram)
    ram = subtract(ram, offline_pfns(truth))
    online = list(kernel.memory.online_ranges())
    spans = merge((zone.start_pfn, zone.end_pfn) for zone in kernel.memory.populated_zones)
    lines = [f"System RAM [{start:#x}, {end:#x}) is not online" for start, end in subtract(ram, online)]
    lines += [
        f"System RAM [{start:#x}, {end:#x}) is in no zone"
        for start, end in subtract(ram, spans)
        if (start, end) != (0, 1)
    ]
    return shorten(lines)


def block_types(kernel: Kernel, zone: Zone) -> collections.Counter[str]:
    """Count a zone's pageblocks by migratetype, as pagetypeinfo_showblockcount_print() does."""
    from mminspect.memorymap import bitmap

    layout = kernel.memory.layout
    counts: collections.Counter[str] = collections.Counter()
    # The kernel begins at the start of the zone, not of its first pageblock.
    for pfn in range(zone.start_pfn, zone.end_pfn, layout.pageblock_nr_pages):
        section = kernel.memory.section(pfn)
        # It asks pfn_to_online_page().
        if section is None or section.is_absent(pfn):
            continue
        chunk = kernel.memmap.chunk(pfn, pfn + 1, section)
        if int(chunk.link[0]) != layout.link(zone.node, zone.index):
            continue
        index = bitmap.pfn_to_bitidx(layout, zone.start_pfn, pfn)
        base = zone.bitmap if layout.flatmem else section.bitmap
        word = kernel.prog.read_word(bitmap.bitmap_word_address(layout, base or 0, index))
        bits = bitmap.pageblock_bits(layout, word, index)
        # Since Linux 6.17, isolation is bit 4 and the migratetype is what it was.
        number = layout.migratetypes.index("ISOLATE") if bits & 0x10 else bits & 7
        counts[layout.migratetypes[number].lower()] += 1
    return counts


def compare_blocks(kernel: Kernel, truth: Truth) -> Differences:
    """Compare the pageblocks of each migratetype with /proc/pagetypeinfo.

    Their number must be the same; a few may have changed their type since the guest printed.
    """
    if not truth.blocks:
        return None
    lines = []
    for zone in kernel.memory.zones:
        told = truth.blocks.get((zone.node, zone.name))
        if told is None:
            # The kernel prints no zone without present pages (walk_zones_in_node()).
            if zone.present:
                lines.append(f"{zone}: /proc/pagetypeinfo doesn't have it")
            continue
        expected = collections.Counter({name.lower(): count for name, count in told.items() if count})
        found = block_types(kernel, zone)
        moved = sum(((found - expected) + (expected - found)).values()) // 2
        if sum(found.values()) != sum(expected.values()) or moved > TYPE_SLACK_BLOCKS:
            lines.append(f"{zone}: pageblocks are {dict(found)}, the guest says {dict(expected)}")
    return lines


def compare_pages(kernel: Kernel, truth: Truth) -> Differences:
    """Compare which pages are online, and which are reserved, with /proc/kpageflags.

    mminspect reads all pages of an early section, since pfn_valid() holds for them. Since 5.12,
    pfn_to_online_page(), and so the guest, leaves out the subsections of it without any RAM. 7.2 shows
    zeros instead of KPF_NOPAGE.
    """
    if not truth.page_flags:
        return None
    import numpy as np

    size = truth.page_flags[-1].end_pfn
    nopage, reserved = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    for run in truth.page_flags:
        nopage[run.start_pfn : run.end_pfn] = run.nopage
        reserved[run.start_pfn : run.end_pfn] = run.reserved
    online, found, early = (np.zeros(size, np.bool_) for _ in range(3))
    for chunk in kernel.memmap.chunks():
        end = min(chunk.end_pfn, size)
        if chunk.start_pfn < end:
            online[chunk.start_pfn : end] = True
            early[chunk.start_pfn : end] = "SECTION_IS_EARLY" in chunk.section.flags
            found[chunk.start_pfn : end] = chunk.reserved(chunk.start_pfn, end)
    subsection = SUBSECTION_BYTES // truth.page_size
    for start, end in truth.system_ram:
        first, last = start // truth.page_size, -(-end // truth.page_size)
        early[first & -subsection : (last + subsection - 1) & -subsection] = False
    lines = []
    if nopage.any():
        wrong = (online == nopage) & ~(early & nopage)
        lines += [f"online is not what the guest says in {text}" for text in describe_runs(wrong)]
    wrong = (found != reserved) & online & ~nopage & ~early
    lines += [f"PG_reserved is not what the guest says in {text}" for text in describe_runs(wrong)]
    return shorten(lines)


def describe_runs(mask: Any) -> list[str]:
    """Return the pfn ranges where a mask is true."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8))).tolist()
    return [f"[{start:#x}, {end:#x})" for start, end in zip(edges[::2], edges[1::2])]


def reference_module() -> Any:
    """Return the per-page reference of the tests, or None if it isn't there."""
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        return importlib.import_module("tests.kit.reference")
    except ImportError:
        return None


def machine_of(reference: Any, prog: Program, truth: Truth) -> Any:
    """Describe a kernel to the reference, by DWARF and by what the guest said; nothing comes from mminspect."""
    word_bits = 8 * int(prog.type("unsigned long").size)
    zones = int(prog["__MAX_NR_ZONES"].value_())
    zone_width = (zones - 1).bit_length()
    try:
        node_width = int(prog["node_data"].type_.length - 1).bit_length()
    except LookupError:
        node_width = 0
    flatmem = prog.type("struct zone").has_member("pageblock_flags")
    section_shift = 0 if flatmem else int(prog["SECTION_SIZE_BITS"].value_() - prog["PAGE_SHIFT"].value_())
    version = tuple(int(part) for part in truth.release.split(".")[:2])
    zone_shift = word_bits - node_width - zone_width
    return reference.Machine(
        pageblock_order=truth.pageblock_order,
        bits_per_block=8 if version >= (6, 17) else 4,
        word_bits=word_bits,
        flatmem=flatmem,
        max_nr_zones=zones,
        node=(zone_shift + zone_width, node_width) if node_width else (0, 0),
        zone=(zone_shift, zone_width) if zone_width else (0, 0),
        pg_reserved=int(prog["PG_reserved"].value_()),
        section_shift=section_shift,
    )


def compare_reference(kernel: Kernel, truth: Truth, report: Mapping[str, Any], most_pages: int) -> Differences:
    """Compare the findings with those of the per-page reference, which needs DWARF.

    It knows FLATMEM with one range of pages and SPARSEMEM_VMEMMAP.
    """
    from mminspect.findings import Finding

    reference = reference_module()
    ranges = sum(len(section.ranges) for section in kernel.memory.sections)
    layout = kernel.memory.layout
    if (
        reference is None
        or report["summary"]["pages_examined"] > most_pages
        or layout.memory_model == "sparsemem"
        or (layout.flatmem and ranges > 1)
        or any("TAINT" in flag for section in kernel.memory.sections for flag in section.flags)
    ):
        return None
    reader = importlib.import_module("tests.kit.reference_drgn")
    world = reader.read_world(kernel.prog, machine_of(reference, kernel.prog, truth))
    # Of a kernel with layouts that it doesn't know, a rule says so, and nothing else.
    unknown = {finding["rule"] for finding in report["findings"] if not finding["detail"]}
    expected = [item for item in reference.findings(world) if item.rule not in unknown]
    found = [
        reference.from_report(Finding(**finding))
        for finding in report["findings"]
        if finding["rule"] in reference.RULE_IDS and finding["rule"] not in unknown
    ]
    lines = [f"mminspect only: {item}" for item in found if item not in expected]
    lines += [f"reference only: {item}" for item in expected if item not in found]
    if len(world.pages) != report["summary"]["pages_examined"] + report["summary"]["pages_unreadable"]:
        lines.append(f"the reference read {len(world.pages)} pages, mminspect {report['summary']['pages_examined']}")
    return shorten(lines)


def compare_reports(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Compare reports made with other types. Nothing but the time and the source of types may differ."""

    def plain(report: Mapping[str, Any]) -> dict[str, Any]:
        target = {k: v for k, v in report["target"].items() if k not in ("types_from", "pageblock_order_from")}
        summary = {k: v for k, v in report["summary"].items() if k != "elapsed_seconds"}
        findings = [without_symbols(finding) for finding in report["findings"]]
        return {"target": target, "zones": report["zones"], "summary": summary, "findings": findings}

    first, second = plain(one), plain(other)
    return [f"{key} differ between the sources of types" for key in first if first[key] != second[key]]


def without_symbols(finding: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finding without what depends on the symbols at hand: whose memory an address is in."""
    detail = {k: v for k, v in finding["detail"].items() if k != "there"}
    if "consequences" in detail:
        # So does the text that goes with an address.
        detail["consequences"] = [{**item, "why": ""} if "address" in item else item for item in detail["consequences"]]
    # The text names the owner of the address behind its last colon.
    message = finding["message"].rsplit(":", 1)[0] if "there" in finding["detail"] else finding["message"]
    return {**finding, "detail": detail, "message": message}


def named_pfns(console: str) -> list[int]:
    """Return the pfns that a kernel named when it dumped pages before it panicked."""
    import re

    return [int(word, 16) for word in re.findall(r"page:\S+ .*\bpfn:(0x[0-9a-f]+)", console)]


def compare_last_words(console: str, report: Mapping[str, Any]) -> Differences:
    """Check that findings point at the pages that a kernel named in its last words."""
    pfns = named_pfns(console)
    if not pfns:
        raise HarnessError("the guest's kernel named no page in its last words")
    rules = ("zone-span", "zone-id", "uninitialized")
    return [
        f"pfn {pfn:#x}, which the kernel's last words name, has no finding"
        for pfn in pfns
        if not any(f["rule"] in rules and f["start_pfn"] <= pfn < f["end_pfn"] for f in report["findings"])
    ]


def compare_triage(result: Mapping[str, Any], verdict: str, console: str) -> Differences:
    """Check the verdict of a triage, and that it read from memory what the guest printed on the console."""
    differences = []
    if result["verdict"] != verdict:
        differences.append(f"the verdict is '{result['verdict']}' and should be '{verdict}': {result['why']}")
    lines = [line for line in (result["crash"] or {"lines": []})["lines"] if line.strip()]
    if not lines:
        differences.append("triage found no crash in the log")
    printed = console.replace("\r", "")
    differences += [f"the console doesn't show the log's line '{line}'" for line in lines if line not in printed]
    return differences
