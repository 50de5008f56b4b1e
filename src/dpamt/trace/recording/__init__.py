"""Recordings of a host's SEAMCALLs: what tracers write, read as one stream of calls."""
