"""Runs of pages: what one SEAMCALL for each page would have done, where all of them succeed."""

from dpamt.module.bulk.calls import ModuleBulk

__all__ = ["ModuleBulk"]
