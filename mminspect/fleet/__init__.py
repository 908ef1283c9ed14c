# SPDX-License-Identifier: LGPL-2.1-or-later
"""Thousands of vmcores and logs: read by Dask, grouped by what memory looked like."""
