"""The SEAMCALL leaves, one function each: operands, locks, checks, effect, result.

A leaf is ``handler(lp, args)``: it reads its operands from ``args``, writes its default outputs
there, takes its locks into ``lp.locks`` and makes its checks in the module's order, each raising
:class:`dpamt.module.refused.Refused` with the whole status; then the effect and the outputs.  The
dispatcher releases the locks and returns the status.
"""
