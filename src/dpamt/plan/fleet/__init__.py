"""Fleets: VMs of a trace placed on thousands of hosts, and what Dynamic PAMT saves on each.

Needs NumPy and PyArrow (the extra ``plan``); a Ray cluster needs the extra ``ray``.
"""

from typing import Final

TABLES: Final = ("hosts.parquet", "moments.parquet", "series.parquet")
"""Files of a fleet's results: a row for each host, for each moment, and for each host and moment;
their columns are those of :mod:`dpamt.plan.fleet.results` and :mod:`dpamt.plan.fleet.series`."""
