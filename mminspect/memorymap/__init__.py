# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of a memory map, as plain numbers."""
