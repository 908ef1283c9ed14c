# SPDX-License-Identifier: LGPL-2.1-or-later
"""Logs of kernels that died of a fault, in the form of each architecture and time."""

from __future__ import annotations

X86_3_10 = """\
BUG: unable to handle kernel paging request at ffffea0001c30008
IP: [<ffffffff8118f2f4>] move_freepages+0x54/0x170
PGD 13ffd6067 PUD 13ffd5067 PMD 0
Oops: 0000 [#1] SMP
Modules linked in: xfs libcrc32c
CPU: 2 PID: 812 Comm: fio Not tainted 3.10.0-1160.el7.x86_64 #1
Hardware name: Example Server/X1, BIOS 1.0
task: ffff88023f8b1fa0 ti: ffff88023f8c0000 task.ti: ffff88023f8c0000
RIP: 0010:[<ffffffff8118f2f4>]  [<ffffffff8118f2f4>] move_freepages+0x54/0x170
RSP: 0018:ffff88023f8c3b30  EFLAGS: 00010246
RAX: 0000000000070c00 RBX: ffffea0001c30000 RCX: 0000000000000001
RDX: 0000000000000000 RSI: ffffea0001c30000 RDI: ffff88023ffd7000
Stack:
 ffff88023f8c3b98 ffff88023ffd7000 0000000000000002 0000000000000001
Call Trace:
 [<ffffffff8118f468>] move_freepages_block+0x58/0x60
 [<ffffffff81190b52>] ? zone_statistics+0x52/0x80
 [<ffffffff81190d91>] __rmqueue+0x2b1/0x4b0
 [<ffffffff8119283a>] get_page_from_freelist+0x52a/0xab0
Code: 48 8b 06 a8 01 75 0d
RIP  [<ffffffff8118f2f4>] move_freepages+0x54/0x170
 RSP <ffff88023f8c3b30>
CR2: ffffea0001c30008
---[ end trace 7f3c1d0b5a2e9f44 ]---
Kernel panic - not syncing: Fatal exception
"""

X86_2_6_32 = """\
BUG: unable to handle kernel NULL pointer dereference at 0000000000000048
IP: [<ffffffffa02b1a10>] frob_open+0x20/0x90 [frob]
PGD 0
Oops: 0000 [#1] SMP
last sysfs file: /sys/devices/system/cpu/online
CPU 1
Modules linked in: frob
Pid: 2301, comm: cat Not tainted 2.6.32-754.el6.x86_64 #1 Example
RIP: 0010:[<ffffffffa02b1a10>]  [<ffffffffa02b1a10>] frob_open+0x20/0x90 [frob]
RSP: 0018:ffff880139c5bd58  EFLAGS: 00010246
RAX: 0000000000000000 RBX: ffff88013a0a1c00 RCX: 0000000000000000
Process cat (pid: 2301, threadinfo ffff880139c5a000, task ffff88013a1e2040)
Call Trace:
 [<ffffffff81192d75>] chrdev_open+0x125/0x230
"""

X86_GPF_OLD = """\
general protection fault: 0000 [#1] SMP PTI
CPU: 3 PID: 91 Comm: kswapd0 Not tainted 4.19.0 #1
RIP: 0010:isolate_lru_pages.isra.56+0x134/0x3b0
RSP: 0018:ffffae5a03b4bb38 EFLAGS: 00010002
RAX: dead000000000100 RBX: ffffde1b04a3c6c8 RCX: ffffae5a03b4bc28
Call Trace:
 shrink_inactive_list+0xe7/0x550
 shrink_node_memcg+0x22a/0x770
---[ end trace 2f6b1d7f9a1c0e55 ]---
"""

X86_GPF_6_12 = """\
Oops: general protection fault, probably for non-canonical address 0xffdfea0000a40008: 0000 [#1] PREEMPT SMP NOPTI
CPU: 5 UID: 0 PID: 88 Comm: kcompactd1 Not tainted 6.12.9 #1
RIP: 0010:isolate_migratepages_block+0x3a1/0x1210
Code: 49 8b 07 a8 40 0f 84
RSP: 0018:ffffb1c7805e7bb0 EFLAGS: 00010202
RAX: ffffea0000a40000 RBX: 0000000000029000 RCX: 0000000000000000
R13: 0000000000000000 R14: ffff9bd0bffd5d00 R15: ffdfea0000a40000
FS:  0000000000000000(0000) GS:ffff9bd0bfd40000(0000) knlGS:0000000000000000
CS:  0010 DS: 0000 ES: 0000 CR0: 0000000080050033
CR2: 00007f1d2c0a9000 CR3: 000000010a1b2000 CR4: 0000000000350ef0
Call Trace:
 <TASK>
 compact_zone+0x3f4/0xe50
 ? __pfx_kcompactd+0x10/0x10
 kcompactd+0x2c1/0x5f0
 </TASK>
---[ end trace 0000000000000000 ]---
RIP: 0010:isolate_migratepages_block+0x3a1/0x1210
RAX: ffffea0000a40000 RBX: 0000000000029000 RCX: 0000000000000000
Kernel panic - not syncing: Fatal exception
Kernel Offset: 0x1a000000 from 0xffffffff81000000
---[ end Kernel panic - not syncing: Fatal exception ]---
"""

X86_DIVIDE = """\
Oops: divide error: 0000 [#1] PREEMPT SMP
CPU: 0 UID: 0 PID: 4 Comm: kworker/0:0 Not tainted 6.12.0 #1
RIP: 0010:zap_stats+0x11/0x30 [frob]
Call Trace:
 process_one_work+0x17c/0x330
"""

X86_DOUBLE_FAULT = """\
traps: PANIC: double fault, error_code: 0x0
double fault: 0000 [#1] SMP PTI
CPU: 1 PID: 700 Comm: deep Not tainted 5.4.0 #1
RIP: 0010:recurse_forever+0x5/0x40 [frob]
Kernel panic - not syncing: Fatal exception in interrupt
"""

I386 = """\
BUG: unable to handle page fault for address: f7a80004
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
*pde = 00000000
Oops: 0000 [#1] SMP
CPU: 0 PID: 1 Comm: swapper/0 Not tainted 5.10.0-32-686-pae #1
EIP: reserve_bootmem_region+0x43/0x90
Code: 89 d8 c1 e0 05
EAX: f7a80000 EBX: 00064000 ECX: 00000000 EDX: 00000000
ESI: 00064400 EDI: c1a3bf58 EBP: c1a3bf4c ESP: c1a3bf40
DS: 007b ES: 007b FS: 00d8 GS: 0000 SS: 0068 EFLAGS: 00210046
CR0: 80050033 CR2: f7a80004 CR3: 01c4a000 CR4: 000006b0
Call Trace:
 memblock_free_all+0x57/0x19c
 mem_init+0x1d/0x1b5
EIP: 0xb7f1c549
Code: 61 62 63 64
EAX: ffffffda EBX: 70617373 ECX: 776f7264 EDX: 00000000
DS: 007b ES: 007b FS: 0000 GS: 0033 SS: 007b EFLAGS: 00000246
---[ end trace 0000000000000000 ]---
"""

ARM64_4_9 = """\
Unable to handle kernel paging request at virtual address ffff7e0000290008
pgd = ffff800008d44000
[ffff7e0000290008] *pgd=00000000bfff6003, *pud=00000000bfff5003, *pmd=0000000000000000
Internal error: Oops: 96000006 [#1] SMP
Modules linked in:
CPU: 3 PID: 51 Comm: kcompactd0 Not tainted 4.9.337 #1
Hardware name: Example Board (DT)
task: ffff8000fa5bd400 task.stack: ffff8000f9d70000
PC is at suitable_migration_target+0x18/0x88
LR is at isolate_freepages+0x1c4/0x320
pc : [<ffff0000081d2c60>] lr : [<ffff0000081d3b60>] pstate: 60000145
sp : ffff8000f9d73a10
x29: ffff8000f9d73a10 x28: ffff7e0000290000
x27: 000000000000a400 x26: 0000000000000000
Process kcompactd0 (pid: 51, stack limit = 0xffff8000f9d70000)
Stack: (0xffff8000f9d73a10 to 0xffff8000f9d74000)
3a00:                                   ffff8000f9d73a90 6d79736563726574
Call trace:
Exception stack(0xffff8000f9d73840 to 0xffff8000f9d73970)
3840: 0000000000000000 0001000000000000 ffff8000f9d73a10 ffff0000081d2c60
[<ffff0000081d2c60>] suitable_migration_target+0x18/0x88
[<ffff0000081d3b60>] isolate_freepages+0x1c4/0x320
[<ffff0000081d4028>] compaction_alloc+0x48/0x60
Code: f9400000 d3441c00
---[ end trace 5d1ac7f9e3b8d1c2 ]---
"""

ARM64_6_6 = """\
Unable to handle kernel paging request at virtual address fffffc00002a0008
Mem abort info:
  ESR = 0x0000000096000006
  EC = 0x25: DABT (current EL), IL = 32 bits
  FSC = 0x06: level 2 translation fault
Data abort info:
  ISV = 0, ISS = 0x00000006
swapper pgtable: 4k pages, 48-bit VAs, pgdp=0000000041a2d000
[fffffc00002a0008] pgd=100000013fff7003, p4d=100000013fff7003, pud=100000013fff6003, pmd=0000000000000000
Internal error: Oops: 0000000096000006 [#1] SMP
CPU: 2 PID: 44 Comm: kcompactd0 Not tainted 6.6.0 #1
Hardware name: linux,dummy-virt (DT)
pstate: 604000c5 (nZCv daIF +PAN -UAO -TCO -DIT -SSBS BTYPE=--)
pc : set_pfnblock_flags_mask+0x34/0xe0
lr : isolate_freepages_block+0x2f0/0x3e0
sp : ffff800082a1ba30
x29: ffff800082a1ba30 x28: fffffc00002a0000 x27: 000000000000a800
Call trace:
 set_pfnblock_flags_mask+0x34/0xe0
 isolate_freepages_block+0x2f0/0x3e0
 el1h_64_irq+0x64/0x68
 el0t_64_sync+0x190/0x198
Code: 8b020000 f9400001
"""

ARM64_USER = """\
Internal error: Oops - BUG: 00000000f2000800 [#1] SMP
CPU: 0 PID: 9 Comm: app Not tainted 6.6.0 #1
pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)
pc : frob_ioctl+0x10/0x40
x1 : 0000000000001234 x0 : ffff000001020304
Call trace:
 frob_ioctl+0x10/0x40
pstate: 80001000 (Nzcv daif -PAN -UAO -TCO -DIT +SSBS BTYPE=--)
pc : 0000aaaac1b2c3d4
lr : 0000aaaac1b2c3d0
sp : 0000ffffd1b2c3d0
x29: 0000ffffd1b2c3d0 x28: 7061737377726421
Code: d2800001 7061737377726421
---[ end trace 0000000000000000 ]---
"""

ARM32_5_10 = """\
8<--- cut here ---
Unable to handle kernel paging request at virtual address eff00004
pgd = (ptrval)
[eff00004] *pgd=00000000
Internal error: Oops: 5 [#1] SMP ARM
Modules linked in:
CPU: 0 PID: 31 Comm: kswapd0 Not tainted 5.10.0 #1
Hardware name: ARM-Versatile Express
PC is at isolate_migratepages_block+0x1f8/0x9e4
LR is at isolate_migratepages_block+0x1a4/0x9e4
pc : [<c0238b3c>]    lr : [<c0238ab0>]    psr: 20000093
sp : c5d11d40  ip : 00000000  fp : c5d11dbc
r10: 00000000  r9 : 0002e400  r8 : c0d12f00
r7 : eff00000  r6 : 00000000  r5 : c5d11e64  r4 : 0002e400
Flags: nzCv  IRQs off  FIQs on  Mode SVC_32  ISA ARM  Segment none
Control: 10c5387d  Table: 8e1c406a  DAC: 00000051
Process kswapd0 (pid: 31, stack limit = 0x(ptrval))
Stack: (0xc5d11d40 to 0xc5d12000)
1d40: c0238ab0 73656372 65742121 00000000
[<c0238b3c>] (isolate_migratepages_block) from [<c023a1e4>] (compact_zone+0x3f0/0xd8c)
[<c023a1e4>] (compact_zone) from [<c023ad2c>] (kcompactd_do_work+0x124/0x2b8)
Code: e3530000 0a000012 (e5973004) e3130001
---[ end trace 1b2c3d4e5f607182 ]---
"""

ARM32_6_1 = """\
8<--- cut here ---
Unable to handle kernel NULL pointer dereference at virtual address 0000000c when read
[0000000c] *pgd=00000000
Internal error: Oops: 5 [#1] SMP ARM
CPU: 1 PID: 77 Comm: sh Not tainted 6.1.0 #1
PC is at frob_read+0x18/0x40 [frob]
LR is at vfs_read+0xac/0x2b0
pc : [<bf0000f8>]    lr : [<c02f0a1c>]    psr: 60000013
sp : e0c51f10  ip : 00000000  fp : 00000000
Flags: nZCv  IRQs on  FIQs on  Mode SVC_32  ISA ARM  Segment user
 frob_read [frob] from vfs_read+0xac/0x2b0
 vfs_read from ksys_read+0x60/0xe0
 ksys_read from ret_fast_syscall+0x0/0x54
Exception stack(0xe0c51fa8 to 0xe0c51ff0)
1fa0:                   00000003 beb1c3d4 70617373 776f7264
"""

S390_FAULT = """\
Unable to handle kernel pointer dereference in virtual kernel address space
Failing address: 000003d10c000000 TEID: 000003d10c000803
Fault in home space mode while using kernel ASCE.
AS:0000000001e34007 R3:00000001fbff4007 S:0000000000000020
Oops: 0010 ilc:3 [#1] SMP
Modules linked in:
CPU: 1 PID: 66 Comm: kcompactd0 Not tainted 6.1.0 #1
Hardware name: QEMU 8561 QEMU (KVM/Linux)
Krnl PSW : 0404d00180000000 00000000002ab54e (isolate_freepages_block+0x8e/0x450)
           R:0 T:1 IO:0 EX:0 Key:0 M:1 W:0 P:0 AS:3 CC:1 PM:0 RI:0 EA:3
Krnl GPRS: 0000000000000000 000003d10c000000 0000000000300000 0000000000300100
           0000000000000001 0000000000000000 00000380001ffb28 0000000000000000
           00000001fbfe1d00 0000000000300000 000003d10c000000 0000000000000000
           0000000001c9a000 0000000000000001 00000000002ab6f0 00000380001ff9a0
Krnl Code: 00000000002ab53e: a7f4ffd5            brc     15,00000000002ab4e8
          #00000000002ab544: e310a0000004        lg      %r1,0(%r10)
Call Trace:
 [<00000000002ab54e>] isolate_freepages_block+0x8e/0x450
([<00000000002ab6f0>] isolate_freepages_block+0x230/0x450)
 [<00000000002ac5b4>] compaction_alloc+0x6fc/0x9f8
Last Breaking-Event-Address:
 [<00000000002ab7c4>] isolate_freepages_block+0x304/0x450
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: Fatal exception: panic_on_oops
"""

S390_BUG = """\
------------[ cut here ]------------
kernel BUG at mm/page_alloc.c:2311!
monitor event: 0040 ilc:2 [#1] SMP
Modules linked in:
CPU: 0 PID: 12 Comm: kworker/0:1 Not tainted 5.14.0 #1
Krnl PSW : 0704e00180000000 000000000033a1c2 (move_freepages_block+0xf2/0x100)
           R:0 T:1 IO:1 EX:1 Key:0 M:1 W:0 P:0 AS:3 CC:2 PM:0 RI:0 EA:3
Call Trace:
 [<000000000033a1c2>] move_freepages_block+0xf2/0x100
User PSW : 0705000180000000 000003ff8c2f2a5a
           R:0 T:1 IO:1 EX:1 Key:0 M:1 W:0 P:1 AS:0 CC:0 PM:0 RI:0 EA:3
User GPRS: 7061737377726421 0000000000000000 0000000000000000 0000000000000000
           7061737377726422 0000000000000000 0000000000000000 0000000000000000
"""

PPC64_OLD = """\
Unable to handle kernel paging request for data at address 0xf000000000a40008
Faulting instruction address: 0xc0000000002a1b2c
Oops: Kernel access of bad area, sig: 11 [#1]
SMP NR_CPUS=2048 NUMA pSeries
Modules linked in:
CPU: 8 PID: 1201 Comm: drmgr Not tainted 4.4.0 #1
task: c0000000fb1a8000 ti: c0000000fb200000 task.ti: c0000000fb200000
NIP: c0000000002a1b2c LR: c0000000002a1ae0 CTR: 0000000000000000
REGS: c0000000fb2037f0 TRAP: 0300   Not tainted  (4.4.0)
MSR: 8000000000009033 <SF,EE,ME,IR,DR,RI,LE>  CR: 24002244  XER: 20000000
CFAR: c000000000008468 DAR: f000000000a40008 DSISR: 40000000 SOFTE: 1
GPR00: c0000000002a1ae0 c0000000fb203a70 c000000001392400 f000000000a40000
GPR04: 000000000000a400 000000000000a500 0000000000000000 0000000000000000
NIP [c0000000002a1b2c] test_pages_isolated+0xac/0x270
LR [c0000000002a1ae0] test_pages_isolated+0x60/0x270
Call Trace:
[c0000000fb203a70] [c0000000002a1ae0] test_pages_isolated+0x60/0x270 (unreliable)
[c0000000fb203af0] [c00000000096e8d4] __offline_pages.constprop.7+0x6f4/0x910
[c0000000fb203bd0] [c0000000006a3f8c] memory_subsys_offline+0x9c/0xf0
[c0000000fb203e30] [c000000000009204] system_call+0x38/0xb4
Instruction dump:
3d220005 39291df8 e93d0000 7fbf4840 e87f0b20 4bff81e9 60000000 60000000
---[ end trace a1b2c3d4e5f60718 ]---
"""

PPC64_NESTED = """\
watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [tar:7001]
Modules linked in: frob
CPU: 3 PID: 7001 Comm: tar Not tainted 6.6.0 #1
NIP:  c0000000003a10cc LR: c0000000003a10c8 CTR: 0000000000000000
REGS: c00000002a1b37f0 TRAP: 0900   Not tainted  (6.6.0)
MSR:  800000000280b033 <SF,VEC,VSX,EE,FP,ME,IR,DR,RI,LE>  CR: 44004222  XER: 00000000
GPR00: c0000000003a10c8 c00000002a1b3a90 c000000001138400 0000000000000001
NIP [c0000000003a10cc] __free_one_page+0x1ac/0x6c0
LR [c0000000003a10c8] __free_one_page+0x1a8/0x6c0
Call Trace:
[c00000002a1b3a90] [c0000000003a10c8] __free_one_page+0x1a8/0x6c0 (unreliable)
--- interrupt: 900 at free_pcppages_bulk+0x100/0x320
NIP:  c0000000003a1f00 LR: c0000000003a1ef0 CTR: 0000000000000000
MSR:  800000000280b033 <SF,VEC,VSX,EE,FP,ME,IR,DR,RI,LE>  CR: 44004222  XER: 00000000
--- interrupt: 900
[c00000002a1b3c30] [c0000000003a2a14] free_unref_page+0x2e4/0x340
[c00000002a1b3e10] [c00000000000cefc] system_call_vectored_common+0x15c/0x2ec
--- interrupt: 3000 at 0x7fffb1c2d3e4
NIP:  00007fffb1c2d3e4 LR: 0000000000000000 CTR: 0000000000000000
MSR:  800000000280f033 <SF,VEC,VSX,EE,PR,FP,ME,IR,DR,RI,LE>  CR: 48004224  XER: 00000000
GPR00: 0000000000000005 7061737377726421 00007fffb1d56e00 0000000000000004
--- interrupt: 3000
"""

RISCV_5_10 = """\
Unable to handle kernel paging request at virtual address ffffffcf02900008
Oops [#1]
Modules linked in:
CPU: 1 PID: 33 Comm: kcompactd0 Not tainted 5.10.0 #1
epc: ffffffe0001ad2ba ra : ffffffe0001ad2a0 sp : ffffffe001e13a70
 gp : ffffffe0014d1a48 tp : ffffffe001d9a680 t0 : ffffffe001f2c000
 t1 : 0000000000000000 t2 : 000000000000a400 s0 : ffffffe001e13ad0
 s1 : ffffffcf02900000 a0 : ffffffe003fdd900 a1 : ffffffcf02900000
status: 0000000000000120 badaddr: ffffffcf02900008 cause: 000000000000000d
Call Trace:
[<ffffffe0001ad2ba>] isolate_migratepages_block+0x110/0x9b2
[<ffffffe0001ae4ce>] compact_zone+0x49a/0x9f0
---[ end trace 9b1c2d3e4f506172 ]---
"""

RISCV_USER = """\
Oops - illegal instruction [#1]
CPU: 0 PID: 70 Comm: app Not tainted 6.6.0 #1
epc : frob_write+0x12/0x30 [frob]
 ra : vfs_write+0xc8/0x2f4
epc : ffffffff016000c2 ra : ffffffff80155d2c sp : ffffffc800a33d10
 s1 : ffffffd8028a1c00 a0 : 0000000000000010 a1 : 0000003fc21b3c4d
status: 0000000200000120 badaddr: 0000000000000000 cause: 0000000000000002
[<ffffffff016000c2>] frob_write+0x12/0x30 [frob]
[<ffffffff80155d2c>] vfs_write+0xc8/0x2f4
epc : 0000003fab1c2d3e ra : 0000003fab1c2d30 sp : 0000003fc21b3c00
 s1 : 7061737377726421 a0 : 0000000000000001 a1 : 0000003fc21b3c4d
status: 0000000200004020 badaddr: 0000000000000000 cause: 0000000000000008
---[ end trace 0000000000000000 ]---
"""

XEN_USER = """\
BUG: unable to handle page fault for address: ffffea0000b50008
Oops: 0000 [#1] PREEMPT SMP NOPTI
CPU: 2 PID: 4012 Comm: app Not tainted 6.1.0-1.qubes #1
RIP: e030:free_pcppages_bulk+0x1c0/0x250
RSP: e02b:ffffc90041a7bc10 EFLAGS: 00010097
RAX: ffffea0000b50000 RBX: ffff88813bbb1c80 RCX: 0000000000000001
Call Trace:
 <TASK>
 free_unref_page_commit+0xd2/0x150
 entry_SYSCALL_64_after_hwframe+0x64/0xce
RIP: e033:0x7ac1b2c3d4e5
Code: 61 62 63
RSP: e02b:00007ffd1b2c3d40 EFLAGS: 00000246 ORIG_RAX: 000000000000000b
RAX: ffffffffffffffda RBX: 7061737377726421 RCX: 00007ac1b2c3d4e5
 </TASK>
---[ end trace 0000000000000000 ]---
"""
