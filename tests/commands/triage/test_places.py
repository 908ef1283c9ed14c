# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a log says that a page lies, and what the page's flags say."""

from __future__ import annotations

import pytest

from mminspect.commands.triage.alone import judge_log
from mminspect.commands.triage.boot import boot_of, read_boots
from mminspect.commands.triage.lines import read_text
from mminspect.commands.triage.places import place_of

BOOT = """\
Linux version 5.10.0-8-amd64 (x) (gcc) #1 SMP Debian 5.10.46-4
Zone ranges:
  DMA      [mem 0x0000000000001000-0x0000000000ffffff]
  DMA32    [mem 0x0000000001000000-0x00000000ffffffff]
  Normal   [mem 0x0000000100000000-0x000000047fffffff]
  Device   empty
Movable zone start for each node
  Node 0: 0x0000000200000000
Early memory node ranges
  node   0: [mem 0x0000000000001000-0x000000000009efff]
  node   0: [mem 0x0000000000100000-0x000000007ffdbfff]
  node   0: [mem 0x0000000100000000-0x000000023fffffff]
  node   1: [mem 0x0000000240000000-0x000000047fffffff]
Initmem setup node 0 [mem 0x0000000000001000-0x000000023fffffff]
Initmem setup node 1 [mem 0x0000000240000000-0x000000047fffffff]
"""
BAD_PAGE = """\
BUG: Bad page state in process systemd  pfn:{pfn:x}
page:00000000deadbeef refcount:0 mapcount:0 mapping:0000000000000000 index:0x0 pfn:{pfn:#x}
flags: 0x7ffffc0001000(reserved|node={node}|zone={zone}|lastcpupid=0x1fffff)
page dumped because: PAGE_FLAGS_CHECK_AT_FREE flag(s) set
CPU: 0 PID: 1 Comm: systemd Tainted: G    B             5.10.0-8-amd64 #1
Call Trace:
 free_pcppages_bulk+0x1b2/0x660
"""


@pytest.mark.parametrize(
    ("pfn", "zone", "node"),
    [
        (0x1FFFFF, "Normal", 0),
        (0x200000, "Movable", 0),
        (0x240000, "Normal", 1),
        (0xFFF, "DMA", 0),
        (0x1000, "DMA32", 0),
    ],
)
def test_movable_begins_where_the_node_says(pfn: int, zone: str, node: int) -> None:
    lines = read_text(BOOT.encode()).lines
    place = place_of(boot_of(read_boots(lines), len(lines)), pfn)
    assert (place.zone, place.node) == (zone, node)


@pytest.mark.parametrize(
    ("pfn", "node", "zone", "link"),
    [
        # A hole of 2021.
        (0x7FFDC, 0, 0, "zone DMA, node 0"),
        (0xA000, 7, 5, "zone id 5, node 7"),
        (0x100000, 0, 1, "zone DMA32, node 0"),
        (0x210000, 0, 2, "zone Normal, node 0"),
        (0x210000, 0, 3, None),
        (0x7FFDC, 0, 1, None),
        (0x240000, 1, 2, None),
        (0x240000, 0, 2, "zone Normal, node 0"),
    ],
)
def test_flags_that_name_another_zone_are_told(pfn: int, node: int, zone: int, link: str | None) -> None:
    text = BOOT + BAD_PAGE.format(pfn=pfn, node=node, zone=zone)
    why = judge_log(read_text(text.encode())).why
    assert (f"; its flags link it to {link}" in why) is (link is not None)
    assert ("flags link it" in why) is (link is not None)


@pytest.mark.parametrize(("pfn", "words"), [(0x9F, "only a part of the page is RAM"), (0xA0, "no RAM there")])
def test_a_page_that_is_half_ram_is_said_to_be(pfn: int, words: str) -> None:
    e820 = "BIOS-e820: [mem 0x{:016x}-0x{:016x}] {}\n"
    ranges = (
        e820.format(0, 0x9FBFF, "usable")
        + e820.format(0x9FC00, 0x9FFFF, "reserved")
        + e820.format(0x100000, 0x7FFDBFFF, "usable")
    )
    version, _, rest = BOOT.partition("\n")
    lines = read_text(f"{version}\n{ranges}{rest}".encode()).lines
    assert f"a hole: {words}" in str(place_of(boot_of(read_boots(lines), len(lines)), pfn))


FAULT = """\
BUG: unable to handle page fault for address: {address:x}
#PF: supervisor write access in kernel mode
Oops: 0002 [#1] PREEMPT SMP PTI
CPU: 1 PID: 71 Comm: kcompactd0 Not tainted 5.10.0-8-amd64 #1
RIP: 0010:fast_isolate_around+0x8a/0x120
RSP: 0018:ffffb3c0402f7c60 EFLAGS: 00010246
RAX: 0000000000000000 RBX: 0000000000000000 RCX: 0000000000000000
"""


@pytest.mark.parametrize(
    ("line", "address", "pfn"),
    [
        ("Command line: root=/dev/sda1 ro nokaslr quiet", 0xFFFFEA0001FFF708, 0x7FFDC),
        ("Kernel command line: nokaslr", 0xFFD4000001FFF708, 0x7FFDC),
        ("Command line: root=/dev/sda1 ro quiet", 0xFFFFEA0001FFF708, None),
        ("Command line: module.nokaslr=1", 0xFFFFEA0001FFF708, None),
        # Another region.
        ("Command line: nokaslr", 0xFFFFC90001FFF708, None),
    ],
)
def test_without_kaslr_an_address_is_a_pfn(line: str, address: int, pfn: int | None) -> None:
    version, _, rest = BOOT.partition("\n")
    found = judge_log(read_text(f"{version}\n{line}\n{rest}{FAULT.format(address=address)}".encode()))
    assert [place.pfn for place in found.places] == ([] if pfn is None else [pfn])
    if pfn is not None:
        assert "pfn 0x7ffdc is in zone DMA32, node 0, a hole: no RAM there" in str(found.why).replace("; ", ", ")


@pytest.mark.parametrize(
    ("ranges", "bugs"),
    [
        ([(0, 0x1000, 0x3FFFFFFF), (1, 0x40000000, 0x7FFFFFFF)], set()),
        ([(0, 0x1000, 0x3FFFFFFF), (1, 0x40100000, 0x5FFFFFFF), (0, 0x60000000, 0x7FFFFFFF)], {"interleaved-nodes"}),
        ([(1, 0x1000, 0x3FFFFFFF), (0, 0x40000000, 0x7FFFFFFF)], {"descending-nodes"}),
        ([], {"interleaved-nodes", "descending-nodes"}),
    ],
)
def test_what_the_nodes_of_the_boot_rule_out(ranges: list[tuple[int, int, int]], bugs: set[str]) -> None:
    lines = ["Linux version 5.13.0 (x) (gcc) #1 SMP", "Early memory node ranges"]
    lines += [f"  node   {node}: [mem 0x{start:016x}-0x{end:016x}]" for node, start, end in ranges]
    nodes = {node: [r for r in ranges if r[0] == node] for node, _, _ in ranges}
    lines += [
        f"Initmem setup node {node} [mem 0x{min(r[1] for r in own):016x}-0x{max(r[2] for r in own):016x}]"
        for node, own in sorted(nodes.items())
    ]
    lines += ["BUG: unable to handle page fault for address: ffffea0001fff708", "Oops: 0002 [#1] PREEMPT SMP PTI"]
    lines += [
        "CPU: 1 PID: 71 Comm: a Not tainted 5.13.0 #1",
        "RIP: 0010:move_freepages_block+0x8a/0x120",
        "Call Trace:",
    ]
    lines += [" set_pfnblock_flags_mask+0x2/0x5", " rmqueue+0x1/0x20"]
    found = judge_log(read_text("\n".join(lines).encode()))
    fits = {fit.bug.id for fit in found.known_bugs}
    assert fits & {"interleaved-nodes", "descending-nodes"} == bugs
