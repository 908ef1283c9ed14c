# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests whose memory is on LRU lists, of several memory cgroups."""

from __future__ import annotations

from contrib.kernels.row import Row
from contrib.kernels.sources import AMD64_5_10, AMD64_6_1, AMD64_6_12, AMD64_BETWEEN, I386_5_10

# Pages of each kind: of a block device (file), of a process and of tmpfs (anon), of the initramfs (unevictable).
LRU_SHELL = (
    "mkdir -p /cgroup /shm && mount -t cgroup2 cgroup /cgroup && mount -t tmpfs tmpfs /shm",
    "echo +memory >/cgroup/cgroup.subtree_control; mkdir /cgroup/one /cgroup/other",
    "losetup /dev/loop0 /bin/busybox; sh -c 'exec 9</dev/loop0; cat <&9 >/dev/null; sleep 1000' &",
    "sh -c 'echo 0 >/cgroup/one/cgroup.procs; head -c 3000000 /dev/zero >/shm/file'",
    "sh -c 'echo 0 >/cgroup/other/cgroup.procs; x=$(head -c 2000000 /dev/zero | tr \"\\0\" x); sleep 1000' &",
    "sleep 2",
)
WITHOUT_GENERATIONS = "[ ! -d /sys/kernel/mm/lru_gen ] || echo n >/sys/kernel/mm/lru_gen/enabled"
WITH_GENERATIONS = "echo y >/sys/kernel/mm/lru_gen/enabled"

LISTS: tuple[Row, ...] = tuple(
    Row(
        f"{source.arch}-{version}-lru{kind}",
        source,
        f"pages on LRU lists{text}, of several memory cgroups",
        memory="128M",
        paging=source.arch == "i386",
        modules=("loop",),
        shell=(switch, *LRU_SHELL),
    )
    for version, source in (
        ("5.10", AMD64_5_10),
        ("5.10", I386_5_10),
        ("6.1", AMD64_6_1),
        ("6.12", AMD64_6_12),
        ("7.3", AMD64_BETWEEN["7.3"]),
    )
    for kind, text, switch in (
        ("", "", WITHOUT_GENERATIONS),
        ("-gen", " of generations", WITH_GENERATIONS),
    )
    if version != "5.10" or not kind
)
