"""What people look at: texts made of facts, nothing computed here but sums and roundings.

The pages about the SEAMCALL leaves are made of facts too: those in the source of the leaves.
"""
