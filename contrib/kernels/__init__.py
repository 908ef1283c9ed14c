# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot stock Debian kernels under QEMU and keep what they knew of their memory map.

Each guest prints its own view of its zones on the console. A dump of its memory is then taken. What
mminspect reads out of the dump must agree with what the guest printed.
"""
