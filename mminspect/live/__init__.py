# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running kernel: what is different from a vmcore, which stands still and belongs to whoever reads it."""
