# SPDX-License-Identifier: LGPL-2.1-or-later
"""Architectures."""

from __future__ import annotations

from drgn import Architecture

_ARCHITECTURES = {
    "i386": Architecture.I386,
    "x86_64": Architecture.X86_64,
    "arm": Architecture.ARM,
    "aarch64": Architecture.AARCH64,
    "ppc64": Architecture.PPC64,
    "riscv": Architecture.RISCV64,
    "s390x": Architecture.S390X,
}
# Machines whose page tables drgn walks, and RISC-V, which has a walk here.
WALKED = ("x86_64", "aarch64", "ppc64", "s390x", "riscv")
# Architecture names as "uname -m" prints them, for kernels whose utsname can't be read.
MACHINE_NAMES = {
    Architecture.I386: "i686",
    Architecture.X86_64: "x86_64",
    Architecture.ARM: "armv7l",
    Architecture.AARCH64: "aarch64",
    Architecture.PPC64: "ppc64le",
    Architecture.RISCV32: "riscv32",
    Architecture.RISCV64: "riscv64",
    Architecture.S390X: "s390x",
}
# e_machine by architecture.
ELF_MACHINE_NUMBERS = {
    Architecture.I386: 3,
    Architecture.PPC64: 21,
    Architecture.S390X: 22,
    Architecture.ARM: 40,
    Architecture.X86_64: 62,
    Architecture.AARCH64: 183,
    Architecture.RISCV32: 243,
    Architecture.RISCV64: 243,
}
