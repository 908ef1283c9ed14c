# SPDX-License-Identifier: LGPL-2.1-or-later
"""An open kernel: everything below it, on demand, once."""
