"""Recorded races of two SEAMCALLs: every schedule explored, outcomes compared."""
