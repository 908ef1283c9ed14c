# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbers of system calls that a sandbox looks at, by architecture: asm/unistd_64.h and asm-generic/unistd.h."""

from __future__ import annotations

from collections.abc import Mapping

# fmt: off
X86_64: Mapping[str, int] = {
    "seccomp": 317, "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4":
    288, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "execve": 59, "execveat": 322, "ptrace": 101,
    "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312, "init_module": 175,
    "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320, "bpf": 321,
    "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register":
    427, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "setns": 308, "unshare": 272, "move_mount":
    429, "open_tree": 428, "fsopen": 430, "fsmount": 432, "fsconfig": 431, "fspick": 433, "mount_setattr": 442,
    "swapon": 167, "swapoff": 168, "reboot": 169, "syslog": 103, "acct": 163, "quotactl": 179, "settimeofday": 164,
    "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305, "sethostname": 170, "setdomainname": 171, "iopl":
    172, "ioperm": 173, "personality": 135, "keyctl": 250, "add_key": 248, "request_key": 249, "open_by_handle_at":
    304, "name_to_handle_at": 303, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "creat": 85, "mknod":
    133, "mknodat": 259, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "unlink": 87, "unlinkat": 263, "rename": 82,
    "renameat": 264, "renameat2": 316, "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266, "truncate": 76,
    "chmod": 90, "fchmodat": 268, "fchmodat2": 452, "fchmod": 91, "chown": 92, "lchown": 94, "fchown": 93, "fchownat":
    260, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "utime": 132, "utimes": 235, "futimesat": 261,
    "utimensat": 280, "open": 2, "openat": 257, "openat2": 437, "clone": 56, "clone3": 435, "ioctl": 16
}
AARCH64: Mapping[str, int] = {
    "seccomp": 277, "socket": 198, "socketpair": 199, "connect": 203, "bind": 200, "listen": 201, "accept": 202,
    "accept4": 242, "sendto": 206, "sendmsg": 211, "sendmmsg": 269, "execve": 221, "execveat": 281, "ptrace": 117,
    "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438, "kcmp": 272, "init_module": 105,
    "finit_module": 273, "delete_module": 106, "kexec_load": 104, "kexec_file_load": 294, "bpf": 280,
    "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register":
    427, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "setns": 268, "unshare": 97, "move_mount": 429,
    "open_tree": 428, "fsopen": 430, "fsmount": 432, "fsconfig": 431, "fspick": 433, "mount_setattr": 442, "swapon":
    224, "swapoff": 225, "reboot": 142, "syslog": 116, "acct": 89, "quotactl": 60, "settimeofday": 170,
    "clock_settime": 112, "adjtimex": 171, "clock_adjtime": 266, "sethostname": 161, "setdomainname": 162,
    "personality": 92, "keyctl": 219, "add_key": 217, "request_key": 218, "open_by_handle_at": 265,
    "name_to_handle_at": 264, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "mknodat": 33, "mkdirat":
    34, "unlinkat": 35, "renameat": 38, "renameat2": 276, "linkat": 37, "symlinkat": 36, "truncate": 45, "fchmodat":
    53, "fchmodat2": 452, "fchmod": 52, "fchown": 55, "fchownat": 54, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7,
    "utimensat": 88, "openat": 56, "openat2": 437, "clone": 220, "clone3": 435, "ioctl": 29
}
# fmt: on
