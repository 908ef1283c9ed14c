# SPDX-License-Identifier: LGPL-2.1-or-later
"""Triage of vmcores: which pages the kernel named, and whether they are blamed rightly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable

import pytest

from mminspect.commands.triage import verdict as verdicts
from mminspect.commands.triage.about import about_pages
from mminspect.commands.triage.lines import Line
from mminspect.commands.triage.pages import Pages, useful_registers
from mminspect.commands.triage.report import Report
from mminspect.commands.triage.report import crash_of as find_crash
from mminspect.commands.triage.reports import read_reports
from mminspect.commands.triage.verdict import Verdict
from mminspect.findings import Finding
from mminspect.memorymap.map import MemoryMap
from mminspect.memorymap.sections import Section
from mminspect.rules.registry import all_rules
from tests.conftest import Cli, Edited, Kernels, Opened, Unpacked
from tests.kit.handmade import SPARSE, zone

BUG = "amd64-5.10-bug"
DAMAGED = "amd64-6.12-damaged"
SYSRQ = "amd64-6.12-sysrq"
NULL = "amd64-7.2-null"

MEM_MAP = 0xFFFFEA0000000000
MEMORY = MemoryMap(
    SPARSE,
    (),
    (zone(0, 0, 16), zone(1, 16, 100)),
    (Section(0, ((0, 64),), MEM_MAP, 0x1000), Section(1, ((64, 128),), MEM_MAP, 0x1000)),
)


def log(text: str) -> list[Line]:
    """Make log lines of a text."""
    return [Line(number, number / 10, None, None, line) for number, line in enumerate(text.strip("\n").splitlines())]


def crash_of(text: str) -> Report:
    """Parse the crash in a text."""
    crash = find_crash(read_reports(log(text)))
    assert crash is not None
    return crash


def judge(crash: Report, findings: list[Finding], memory: MemoryMap, saved: dict[str, int] | None = None) -> Verdict:
    """Judge a crash."""
    about = about_pages(crash, Pages(memory).is_struct_page)
    return verdicts.judge(crash, about, findings, memory, saved)


def finding(
    rule: str, start: int, end: int, severity: str = "error", wrong: tuple[tuple[int, int], ...] = (), **detail: Any
) -> Finding:
    """Make a finding, about blocks of ``order`` at ``pfns`` if it has these."""
    named = tuple((pfn, pfn + (1 << detail["order"])) for pfn in detail.get("pfns", ()))
    about = all_rules()[rule].about
    return Finding(rule, severity, start, end, 0, "DMA", "message", detail, about, named, wrong)


# What kernels of other versions and architectures print, as their sources have it.
BAD_PAGE = """
EXT4-fs (vda1): mounted filesystem
BUG: Bad page state in process kworker/0:1  pfn:0002a
page:(____ptrval____) refcount:-1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x2a
flags: 0x1000(reserved)
raw: 0000000000001000 ffffea0000000a88 ffffea0000000a88 0000000000000000
page dumped because: PAGE_FLAGS_CHECK_AT_FREE flag(s) set
Call Trace:
 dump_stack_lvl+0x5d/0x80
 bad_page.cold+0x7a/0x8a
 ? free_pcppages_bulk+0x1b2/0x220
 free_unref_page+0x2f/0x140
"""
ARM64_FAULT = """
Unable to handle kernel paging request at virtual address fffffdffbffe0008
Mem abort info:
Internal error: Oops: 0000000096000004 [#1] SMP
CPU: 1 PID: 44 Comm: kcompactd0 Not tainted 6.12.0 #1
pc : isolate_freepages_block+0x88/0x4d0
lr : isolate_freepages+0x1a4/0x2d8
sp : ffff8000807bba70
x29: ffff8000807bba70 x28: ffffea0000000a80 x27: 0000000000000000
Call trace:
 isolate_freepages_block+0x88/0x4d0
 isolate_freepages+0x1a4/0x2d8
 compaction_alloc+0x40/0x60
"""
I386_FAULT = """
BUG: unable to handle page fault for address: f6ef5fe8
#PF: supervisor write access in kernel mode
Oops: 0003 [#1] SMP
CPU: 0 PID: 20 Comm: kcompactd0 Not tainted 5.10.0 #1
EIP: set_pfnblock_flags_mask+0x5a/0xa0
EAX: 00000140 EBX: f63dab38 ECX: 00000000 EDX: f6ef5fe8
Call Trace:
 fast_isolate_around+0x9d/0xc0
 compaction_alloc+0x55f/0xad0
"""
BUG_AT = """
------------[ cut here ]------------
kernel BUG at mm/page_alloc.c:1389!
invalid opcode: 0000 [#1] SMP
RIP: 0010:move_freepages+0x148/0x150
RAX: ffffea0000000a80 RBX: 0000000000000000 RCX: 0000000000000000
Call Trace:
 __rmqueue+0x18d/0x440
"""
OTHER_BUG = """
kernel BUG at fs/ext4/inode.c:2714!
invalid opcode: 0000 [#1] SMP
RIP: 0010:ext4_writepages+0xfb5/0xff0
RAX: ffffea0000000a80 RBX: ffffea0000000a80 RCX: 0000000000000000
Call Trace:
 do_writepages+0xcc/0x1a0
"""


def test_i386_fault() -> None:
    crash = crash_of(I386_FAULT)
    assert (crash.kind, crash.function) == ("fault", "set_pfnblock_flags_mask")
    assert crash.registers[0].values["EDX"] == 0xF6EF5FE8
    outside = finding("bitmap-bounds", 200, 210, address=0xF6EF5FE8)
    verdict = judge(crash, [outside], MEMORY)
    assert verdict.verdict == "explained"
    assert verdict.evidence[-1]["address"] == 0xF6EF5FE8
    elsewhere = finding("bitmap-bounds", 200, 210, address=0xF6EF5F00)
    assert judge(crash, [elsewhere], MEMORY).verdict != "explained"


def test_struct_page_addresses() -> None:
    pages = Pages(MEMORY)
    assert pages.pfn(MEM_MAP) == 0
    assert pages.pfn(MEM_MAP + 64 * 42 + 8) == 42
    assert pages.pfn(MEM_MAP + 64 * 128) is None
    assert pages.pfn(MEM_MAP - 1) is None


ZEROED = finding("uninitialized", 0x28, 0x2C, kind="zeroed", spanned_by=[[0, 1]])


def test_named_page_of_a_finding_explains() -> None:
    verdict = judge(crash_of(BAD_PAGE), [ZEROED], MEMORY)
    assert verdict.verdict == "explained"
    assert verdict.findings == [ZEROED]
    assert verdict.evidence[0]["pfn"] == 0x2A


def test_held_page_explains_where_a_walker_died() -> None:
    assert judge(crash_of(ARM64_FAULT), [ZEROED], MEMORY).verdict == "explained"
    assert judge(crash_of(BUG_AT), [ZEROED], MEMORY).verdict == "explained"


def test_held_page_is_only_possible_where_a_caller_walks() -> None:
    text = BUG_AT.replace("move_freepages+", "foo_put+").replace("mm/page_alloc.c:1389", "lib/list_debug.c:53")
    assert judge(crash_of(text), [ZEROED], MEMORY).verdict == "possible"


def test_other_code_is_not_blamed_on_the_page_that_it_held() -> None:
    verdict = judge(crash_of(OTHER_BUG), [ZEROED], MEMORY)
    assert verdict.verdict == "other"
    assert verdict.findings == []


def test_notes_explain_nothing() -> None:
    note = finding("zone-span", 0x28, 0x2C, "note", linked=[0, 0], spanned_by=[], reserved=True)
    assert judge(crash_of(BAD_PAGE), [note], MEMORY).verdict == "unexplained"


def test_notes_are_shown_with_the_pages_that_they_name() -> None:
    link = finding("free-list", 0x2A, 0x2C, "note", problem="link", order=1, pfns=[0x2A])
    names = finding("per-cpu-list", 0x10, 0x30, "note", problem="link", order=0, pfns=[0x10, 0x2A])
    others = [
        finding("free-list", 0x2A, 0x40, "note", problem="count", pfns=[]),
        finding("zone-span", 0x28, 0x2C, "note", linked=[0, 0], spanned_by=[], reserved=True),
    ]
    verdict = judge(crash_of(BAD_PAGE), [link, names, *others], MEMORY)
    assert verdict.verdict == "unexplained"
    assert verdict.findings == []
    (item,) = verdict.evidence
    assert (item["rules"], item["notes"]) == ([], ["free-list message", "per-cpu-list message"])
    verdict = judge(crash_of(BAD_PAGE), [ZEROED, link], MEMORY)
    assert (verdict.verdict, verdict.findings) == ("explained", [ZEROED])
    assert verdict.evidence[0]["notes"] == ["free-list message"]
    assert "notes" not in judge(crash_of(BAD_PAGE), [ZEROED, *others], MEMORY).evidence[0]


def test_right_page_of_a_mixed_block_explains_nothing() -> None:
    runs = [[0x28, 0x2F, 0, 1], [0x2F, 0x30, 0, 2]]
    mixed = finding("mixed-zone", 0x28, 0x30, wrong=((0x2F, 0x30),), runs=runs, hidden=False)
    assert judge(crash_of(BAD_PAGE), [mixed], MEMORY).verdict == "unexplained"
    runs = [[0x28, 0x2A, 0, 1], [0x2A, 0x2B, 0, 2], [0x2B, 0x30, 0, 1]]
    mixed = finding("mixed-zone", 0x28, 0x30, wrong=((0x2A, 0x2B),), runs=runs, hidden=True)
    assert judge(crash_of(BAD_PAGE), [mixed], MEMORY).verdict == "explained"


def test_errors_elsewhere_are_only_possible() -> None:
    crash = crash_of("kernel BUG at mm/compaction.c:220!\nRIP: 0010:compact_zone+0x1/0x2\n")
    assert judge(crash, [finding("zone-id", 3, 4)], MEMORY).verdict == "possible"
    assert judge(crash, [], MEMORY).verdict == "unexplained"


def outcomes(**by_function: str) -> list[dict[str, str]]:
    """Make consequences."""
    return [{"function": name, "outcome": outcome, "why": "why"} for name, outcome in by_function.items()]


@pytest.mark.parametrize(
    ("function", "consequences", "verdict"),
    [
        # The function that died.
        ("compact_zone", outcomes(compact_zone="safe", other="faults"), "unexplained"),
        ("compact_zone", outcomes(compact_zone="reads wrong", other="safe"), "possible"),
        # They don't speak of it.
        ("isolate_freepages", outcomes(page_zone="reads wrong", a="safe", b="refuses"), "unexplained"),
        ("isolate_freepages", outcomes(page_zone="reads wrong", a="reads wrong", b="refuses"), "possible"),
        ("isolate_freepages", [], "possible"),
    ],
)
def test_errors_that_do_no_harm_where_it_died(function: str, consequences: list[dict[str, str]], verdict: str) -> None:
    text = f"kernel BUG at mm/compaction.c:220!\nRIP: 0010:{function}+0x1/0x2\n"
    wrong = finding("zone-id", 3, 4, consequences=consequences)
    assert judge(crash_of(text), [wrong], MEMORY).verdict == verdict
    assert judge(crash_of(text), [wrong, finding("zone-id", 5, 6)], MEMORY).verdict == "possible"
    saved = {"rdi": MEM_MAP + 64 * 3}
    assert judge(crash_of(text), [wrong], MEMORY, saved=saved).verdict == verdict
    # The kernel names the page, so it came there.
    named = crash_of(text.replace("\n", "\npage:0000000000000000 pfn:0x3\n", 1))
    assert judge(named, [wrong], MEMORY).verdict == "explained"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (NULL, b"version_proc_show+", b"isolate_freepages+"),
        (SYSRQ, b"Kernel panic - not syncing: sysrq triggered crash", b"kernel BUG at mm/compaction.c:601!".ljust(49)),
    ],
)
def test_stock_oddity_is_not_suspected(
    name: str, before: bytes, after: bytes, unpacked: Unpacked, tmp_path: Path, cli: Cli
) -> None:
    """The errors of healthy guests are of ACPI tables behind the last zone, where no walk comes."""
    data = unpacked(name).read_bytes()
    assert before in data
    path = tmp_path / "core"
    path.write_bytes(data.replace(before, after))
    (result,) = cli("triage", "--format", "json", path).json()
    assert result["summary"]["by_severity"]["error"] > 0
    assert result["verdict"] == "unexplained"
    assert "safe from the" in result["why"]


def test_bad_page_of_the_stock_oddity_is_named_so(
    unpacked: Unpacked, kernels: Kernels, tmp_path: Path, cli: Cli
) -> None:
    pfn = max(zone.end_pfn for zone in kernels(SYSRQ).memory.populated_zones)
    before = b"Kernel panic - not syncing: sysrq triggered crash"
    after = b"BUG: Bad page state in process init  pfn:%05x" % pfn
    path = tmp_path / "core"
    path.write_bytes(unpacked(SYSRQ).read_bytes().replace(before, after.ljust(len(before))))
    text = cli("triage", path).out
    assert f"pfn {pfn:#x}: mixed-zone, zone-id; in no zone, online, /proc/iomem: Reserved" in " ".join(text.split())
    assert "Looks familiar\n  reserved-page-in-no-zone: reserved pages that no zone spans" in text
    assert "known bug" not in text
    assert "\nTry\n" not in text


def test_reserved_page_behind_the_last_zone_is_named() -> None:
    last = SPARSE.max_nr_zones
    flags = SPARSE.page.reserved
    detail: dict[str, Any] = {"zone_id": last, "zone_struct": 0x1000, "stale": False, "flags": flags}
    crash = crash_of(BAD_PAGE.replace("2a", "78"))
    stock = finding("zone-id", 0x78, 0x7A, **detail)
    verdict = judge(crash, [stock], MEMORY)
    assert [bug["commits"] for bug in verdict.known] == [[]]
    assert verdict.known[0]["id"] == "reserved-page-in-no-zone"
    assert not any("no known bug" in text for text in verdict.proof)
    for change in ({"zone_id": last + 1}, {"flags": 0}, {"stale": True}):
        assert judge(crash, [finding("zone-id", 0x78, 0x7A, **{**detail, **change})], MEMORY).known == []
    # A zone spans it.
    assert judge(crash_of(BAD_PAGE), [finding("zone-id", 0x2A, 0x2B, **detail)], MEMORY).known == []


# Registers that the dump saved


def test_saved_register_makes_a_crash_possible_at_most() -> None:
    crash = crash_of("kernel BUG at mm/compaction.c:220!\nRIP: 0010:compact_zone+0x1/0x2\n")
    for value in (MEM_MAP + 64 * 0x2A, MEM_MAP + 64 * 0x2A + 8):
        verdict = judge(crash, [ZEROED], MEMORY, saved={"rdi": value})
        assert (verdict.verdict, verdict.findings) == ("possible", [ZEROED])
        source = f"saved register rdi = {value:#x}"
        assert verdict.evidence == [{"pfn": 0x2A, "from": source, "how": "may have held", "rules": ["uninitialized"]}]
        assert "pfn 0x2a, which it may have held, is in a finding" in verdict.why


def test_saved_registers_say_nothing_where_the_log_does() -> None:
    saved = {"rdi": MEM_MAP + 64 * 0x10}
    other = finding("zone-id", 0x10, 0x11)
    verdict = judge(crash_of(BUG_AT), [other, ZEROED], MEMORY, saved=saved)
    assert (verdict.verdict, verdict.findings) == ("explained", [ZEROED])
    assert [item["pfn"] for item in verdict.evidence] == [0x2A]
    # Nothing wrong with its page, or only a warning; or not about pages at all.
    crash = crash_of("kernel BUG at mm/compaction.c:220!\nRIP: 0010:compact_zone+0x1/0x2\n")
    assert judge(crash, [], MEMORY, saved=saved).evidence == []
    assert judge(crash, [finding("zone-id", 0x10, 0x11, "warning")], MEMORY, saved=saved).evidence == []
    assert judge(crash_of(OTHER_BUG), [other], MEMORY, saved=saved).verdict == "other"


def test_register_with_a_pfn_is_weak_evidence() -> None:
    memory = MemoryMap(SPARSE, (), (zone(0, 0, 0x4000),), (Section(0, ((0, 0x4000),), MEM_MAP, 0x1000),))
    text = "kernel BUG at mm/compaction.c:220!\nRIP: 0010:compact_zone+0x1/0x2\nRAX: 0000000000002a00\n"
    wrong = finding("zone-id", 0x2A00, 0x2A01)
    verdict = judge(crash_of(text), [wrong], memory)
    assert (verdict.verdict, verdict.findings) == ("possible", [wrong])
    assert verdict.evidence[0]["from"] == "register RAX = 0x2a00, perhaps a pfn"
    small = finding("zone-id", 0xFFF, 0x1000)
    assert judge(crash_of(text.replace("2a00", "0fff")), [small], memory).evidence == []
    assert useful_registers({"a": 0xFFF, "b": 0x2A00, "c": MEM_MAP, "d": 0x4000}, memory) == {"b": 0x2A00, "c": MEM_MAP}


@pytest.mark.parametrize(
    ("model", "value", "start"),
    [
        ("sparsemem", 0, True),
        ("sparsemem", 64, True),
        ("sparsemem", 63, False),
        ("sparsemem_vmemmap", 0, True),
        ("sparsemem_vmemmap", 64, False),
        ("flatmem", 0, True),
        ("flatmem", 64, False),
    ],
)
def test_start_of_a_memmap_is_weak_evidence(model: str, value: int, start: bool) -> None:
    shift = None if model == "flatmem" else 6
    layout = dataclasses.replace(SPARSE, memory_model=model, pfn_section_shift=shift)
    section = Section(0, ((0, 128),), MEM_MAP, 0x1000)
    memory = MemoryMap(layout, (), (zone(0, 0, 128),), (section,))
    address = MEM_MAP + 64 * value
    assert Pages(memory).is_start(address) == start
    assert not Pages(memory).is_start(address + 8)
    text = f"kernel BUG at mm/compaction.c:220!\nRIP: 0010:compact_zone+0x1/0x2\nR12: {address:016x}\n"
    verdict = judge(crash_of(text), [finding("zone-id", value, value + 1)], memory)
    assert verdict.verdict == ("possible" if start else "explained")
    # Where nothing is wrong with it, it isn't shown.
    assert [item["pfn"] for item in judge(crash_of(text), [], memory).evidence] == ([] if start else [value])


@pytest.mark.parametrize("rule", ["zone-pages", "per-cpu-list", "free-list", "compaction-cursor", "node-link"])
def test_finding_of_a_zone_explains_no_page_of_it(rule: str) -> None:
    assert judge(crash_of(BAD_PAGE), [finding(rule, 0, 64)], MEMORY).verdict == "unexplained"
    crash = crash_of("kernel BUG at mm/compaction.c:220!\nRIP: 0010:compact_zone+0x1/0x2\n")
    assert judge(crash, [finding(rule, 0, 64)], MEMORY).verdict == "possible"


def test_finding_of_a_list_explains_the_pages_that_it_names() -> None:
    listed = finding("per-cpu-list", 0x10, 0x12, pfns=[0x10, 0x2A], order=1)
    assert judge(crash_of(BAD_PAGE), [listed], MEMORY).findings == [listed]
    assert judge(crash_of(BAD_PAGE.replace("2a", "2b")), [listed], MEMORY).findings == [listed]
    assert judge(crash_of(BAD_PAGE.replace("2a", "2c")), [listed], MEMORY).findings == []


def test_known_bug_by_evidence() -> None:
    hole = finding("zone-span", 0x2A, 0x2B, linked=[0, 0], spanned_by=[[0, 1]], reserved=True)
    bugs = judge(crash_of(BAD_PAGE), [hole], MEMORY).known
    assert [bug["commits"][0]["hash"] for bug in bugs] == ["0740a50b9baa"]
    # The link is to another zone, or the page isn't reserved: not that bug.
    for change in ({"linked": [0, 2]}, {"reserved": False}):
        other = finding("zone-span", 0x2A, 0x2B, **{**hole.detail, **change})
        assert judge(crash_of(BAD_PAGE), [other], MEMORY).known == []


def test_zeroed_pages_of_ram_are_no_known_bug() -> None:
    for in_ram, expected in ((False, 1), (True, 0), (None, 0)):
        detail: dict[str, Any] = {"kind": "zeroed", "spanned_by": [[0, 1]]}
        if in_ram is not None:
            detail["in_ram"] = in_ram
        verdict = judge(crash_of(BAD_PAGE), [finding("uninitialized", 0x28, 0x2C, **detail)], MEMORY)
        assert len(verdict.known) == expected
        assert any("System RAM" in text for text in verdict.proof) == (in_ram is True)


Triaged = Callable[..., tuple[int, Any]]


@pytest.fixture
def triaged(cli: Cli, unpacked: Unpacked) -> Triaged:
    """Run ``mminspect triage`` on stored vmcores; give the exit status and the decoded results."""

    def get(*names: str) -> tuple[int, Any]:
        done = cli("triage", "--format", "json", *map(unpacked, names))
        return done.status, done.json()

    return get


def test_bug_of_2021_is_explained(triaged: Triaged) -> None:
    status, (result,) = triaged(BUG)
    assert status == 1
    assert result["verdict"] == "explained"
    assert result["crash"]["function"] == "set_pfnblock_flags_mask"
    assert result["crash"]["pfns"] == [0x2A00]
    # R12 has the start of section 0's memmap, R13 the pfn.
    assert [item["pfn"] for item in result["evidence"]] == [0x2A00]
    assert result["evidence"][0]["from"].endswith("; register R13 = 0x2a00")
    assert [(f["rule"], f["start_pfn"]) for f in result["findings"]] == [("zone-span", 0x2A00), ("mixed-zone", 0x2A00)]
    assert "set_pfnblock_flags_mask() there: BUG" in result["why"]
    hashes = [commit["hash"] for bug in result["known_bugs"] for commit in bug["commits"]]
    assert hashes[0] == "0740a50b9baa"
    assert "6e2b7044c199" in hashes


def test_damaged_struct_pages_are_explained(triaged: Triaged) -> None:
    """A debugger zeroed the struct pages of 64 free pages; the allocator's list led there."""
    status, (result,) = triaged(DAMAGED)
    assert status == 1
    assert result["verdict"] == "explained"
    assert result["crash"]["kind"] == "list"
    first = result["findings"][0]
    assert (first["rule"], first["start_pfn"], first["end_pfn"]) == ("uninitialized", 0x8000, 0x8040)
    assert result["known_bugs"] == []
    # A list of free pages leads from 0x7c00 to them; its lock was held.
    notes = {item["pfn"]: item["notes"] for item in result["evidence"] if "notes" in item}
    assert [text.split()[0] for text in notes.get(0x7C00, ())] == ["free-list"]
    assert "System RAM" in result["proof"][0]


@pytest.mark.parametrize(("name", "reason"), [(SYSRQ, "sysrq triggered crash"), (NULL, "kernel NULL pointer")])
def test_other_crashes_are_not_blamed_on_the_memory_map(name: str, reason: str, triaged: Triaged) -> None:
    """Both kernels have errors of their own in the memory map, as stock kernels do with ACPI tables."""
    status, (result,) = triaged(name)
    assert status == 0
    assert result["summary"]["by_severity"]["error"] > 0
    assert result["verdict"] == "other"
    assert result["findings"] == result["known_bugs"] == []
    assert reason in result["crash"]["reason"]


def test_text_names_what_matters(cli: Cli, unpacked: Unpacked) -> None:
    text = cli("triage", unpacked(BUG)).out
    for part in (
        "The memory map explains this crash.",
        "Looks like a known bug",
        "0740a50b9baa",
        "What would prove it",
    ):
        assert part in text
    text = cli("triage", unpacked(SYSRQ)).out
    assert "The memory map doesn't explain this crash." in text
    assert "known bug" not in text


def test_core_before_the_command_and_vmcores_after_it(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    for core in (tmp_path / "missing", unpacked(SYSRQ)):
        done = cli("-c", core, "triage", unpacked(SYSRQ))
        assert (done.status, done.out) == (2, "")
        assert done.err.count("\n") == 1
        assert "leave out -c" in done.err


def test_json_says_which_file_failed(cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    done = cli("triage", "--format", "json", missing, unpacked(SYSRQ))
    assert done.status == 2
    assert done.err.count("\n") == 1
    failed, result = done.json()
    assert failed == {"path": str(missing), "error": failed["error"]}
    assert failed["error"] in done.err
    assert result["verdict"] == "other"


def test_damaged_log_buffer_is_no_traceback(edited: Edited, opened: Opened, cli: Cli) -> None:
    prog = opened(SYSRQ)[0].prog
    ring = prog["prb"][0].desc_ring
    for member, value in (("count_bits", 200), ("descs", 8)):
        editor = edited(SYSRQ)
        address = getattr(ring, member).address_
        data = value.to_bytes(4 if member == "count_bits" else 8, "little")
        editor.write(address, data)
        done = cli("triage", editor.path)
        assert done.err == ""
        assert "Nothing tells why, or whether, this kernel died." in done.out
