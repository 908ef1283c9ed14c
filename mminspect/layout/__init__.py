# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the memory map is read out of a kernel. drgn's objects end here."""
