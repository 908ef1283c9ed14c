# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a kernel died, by its last words."""
