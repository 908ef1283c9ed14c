# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot Debian kernels under QEMU and run this checkout of mminspect on them while they are running.

The guest's root file system is the machine's own, shared read-only. So the guest has the Python,
the drgn and the mminspect that run this recipe. The guest's memory can be dumped at any moment, and
what mminspect says about the dump must agree with what it says inside.
"""
