# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walk: chunks of the memmap through the rules to findings."""
