"""Fleets: VMs of a trace placed on thousands of hosts, and what Dynamic PAMT saves on each.

Needs NumPy and PyArrow (the extra ``plan``); a Ray cluster needs the extra ``ray``.
"""
