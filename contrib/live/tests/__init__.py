# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of the live guest, of mminspect inside it, and of what else contrib has for running hosts."""
