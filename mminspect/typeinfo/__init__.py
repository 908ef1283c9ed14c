# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory gets types and names: DWARF, or BTF with symbols from elsewhere."""
