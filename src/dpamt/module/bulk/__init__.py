"""Runs of pages: what so many SEAMCALLs in a row would have done, where all of them succeed."""

from dpamt.module.bulk.calls import ModuleBulk

__all__ = ["ModuleBulk"]
