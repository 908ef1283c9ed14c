# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Explore what a kernel makes of physical memory layouts.

A layout is booted without firmware and stopped when memory initialization is done. mminspect then judges the memory
map.
"""
