# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's kernels: the suites, architectures and packages."""

from __future__ import annotations

from contrib.kernels.fetch import Source

V5_10 = r"linux-image-5\.10\.0-[0-9]+-"
V6_1 = r"linux-image-6\.1\.0-[0-9]+-"
V6_12 = r"linux-image-6\.12\.[0-9]+\+deb13-"
V7_2 = r"linux-binary-(?:unsigned-)?7\.2\.[0-9]+\+deb14-"
V7_3 = r"linux-binary-(?:unsigned-)?7\.3\.[0-9]+\+deb13-"

AMD64_5_10 = Source("bullseye", "amd64", V5_10 + "cloud-amd64-unsigned")
AMD64_6_1 = Source("bookworm", "amd64", V6_1 + "cloud-amd64-unsigned")
AMD64_6_12 = Source("trixie", "amd64", V6_12 + "cloud-amd64-unsigned")
AMD64_7_2 = Source("sid", "amd64", V7_2 + "cloud-amd64", ("linux-modules-{release}",))
# Those between two releases of Debian. The archive has no modules of 6.19 to 7.1.
AMD64_BETWEEN = {
    "6.16": Source("trixie-backports", "amd64", r"linux-image-6\.16\.[0-9]+\+deb13-cloud-amd64"),
    "6.17": Source("trixie-backports", "amd64", r"linux-image-6\.17\.[0-9]+\+deb13-cloud-amd64"),
    "6.18": Source("trixie-backports", "amd64", r"linux-image-6\.18\.[0-9]+\+deb13-cloud-amd64"),
    "6.18-rt": Source("trixie-backports", "amd64", r"linux-image-6\.18\.[0-9]+\+deb13-rt-amd64"),
    "7.3": Source("trixie-backports", "amd64", V7_3 + "cloud-amd64", ("linux-modules-{release}",)),
    "7.3-rt": Source("trixie-backports", "amd64", V7_3 + "rt-amd64", ("linux-modules-{release}",)),
}
ARM64_7_3 = Source("trixie-backports", "arm64", V7_3 + "cloud-arm64", ("linux-modules-{release}",))
AMD64_5_10_STANDARD = Source("bullseye", "amd64", V5_10 + "amd64-unsigned")
AMD64_6_1_STANDARD = Source("bookworm", "amd64", V6_1 + "amd64-unsigned")
AMD64_6_12_STANDARD = Source("trixie", "amd64", V6_12 + "amd64-unsigned")
AMD64_7_2_STANDARD = Source("sid", "amd64", V7_2 + "amd64", ("linux-modules-{release}",))
I386_5_10_PAE = Source("bullseye", "i386", V5_10 + "686-pae-unsigned")
I386_5_10 = Source("bullseye", "i386", V5_10 + "686-unsigned")
I386_6_1_PAE = Source("bookworm", "i386", V6_1 + "686-pae-unsigned")
I386_6_1 = Source("bookworm", "i386", V6_1 + "686-unsigned")
ARM64_6_12 = Source("trixie", "arm64", V6_12 + "cloud-arm64-unsigned")
ARM64_6_12_16K = Source("trixie", "arm64", V6_12 + "arm64-16k-unsigned")
ARMHF_6_12 = Source("trixie", "armhf", V6_12 + "armmp")
S390X_6_12 = Source("trixie", "s390x", V6_12 + "s390x")
RISCV64_6_12 = Source("trixie", "riscv64", V6_12 + "riscv64")
PPC64EL_6_12 = Source("trixie", "ppc64el", V6_12 + "powerpc64le")
PPC64EL_6_12_64K = Source("trixie", "ppc64el", V6_12 + "powerpc64le-64k")
