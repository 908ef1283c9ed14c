# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a kernel died: its last words, and what is wrong with its memory map."""
