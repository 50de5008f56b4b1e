"""How a host ages: TDs that come, fault in, convert, balloon and go, and where that leaves pairs.

Page for page what `dpamt run` does, without the SEAMCALLs: the page allocator, the page pools and
the counts of the merged design, on arrays, for hosts of terabytes.  Needs NumPy (the extra
``plan``).
"""
