"""Recordings of SEAMCALLs: read, write, judge."""
