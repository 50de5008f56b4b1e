"""Operands that name memory of the host: shared HPAs, and the module's reads from them.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [helpers.c].
"""

from dpamt.abi.pages import MAX_PA_LIMIT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused


def check_shared_hpa(
    lp: LogicalProcessor, hpa: int, alignment: int, size: int, refusal: int
) -> int:
    """The memory address of ``size`` bytes at a shared HPA, its KeyID bits removed.

    Refused with ``refusal``: not aligned, not below 2^52, in SEAMRR, or
    with a private KeyID.  Shared HPAs need not lie in a TDMR.
    """
    module = lp.module
    keyid = (hpa & module.hkid_mask) >> module.machine.hkid_start_bit
    address = hpa & ~module.hkid_mask
    if (
        hpa % alignment
        or hpa + size > MAX_PA_LIMIT
        or (address < module.seamrr.stop and address + size > module.seamrr.start)
        or keyid >= module.keys.first
    ):
        raise Refused(refusal)
    return address
