"""Recordings and logs of SEAMCALLs: read, replay, judge, explain."""
