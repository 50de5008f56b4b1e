"""Sizing: what PAMT takes on a host, static and dynamic, now, over weeks, and over a fleet."""
