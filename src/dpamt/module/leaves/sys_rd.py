"""TDH.SYS.RD: read a global metadata field."""

from dpamt.abi.metadata import FIELD_LAST_MASK, FIELD_RESERVED_MASK, NO_FIELD, lookup_key
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    TDX_METADATA_FIELD_ID_INCORRECT,
    TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT,
    TDX_SYS_LP_INIT_NOT_DONE,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused


def tdh_sys_rd(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RDX = field id; R8 = value, RDX = id of the next field.

    The look-up uses class and field code only.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (k.2).
    """
    module = lp.module
    field_id = args.rdx
    args.rdx = NO_FIELD
    args.r8 = 0

    initialized = module.lps_initialized.at(lp.index).load()
    if not initialized:
        raise Refused(TDX_SYS_LP_INIT_NOT_DONE)
    if field_id == NO_FIELD:
        args.rdx = next(iter(module.metadata.values()))[0]
        raise Refused(TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT)
    if field_id & (FIELD_RESERVED_MASK | FIELD_LAST_MASK):
        raise Refused(TDX_METADATA_FIELD_ID_INCORRECT)
    found = module.metadata.get(lookup_key(field_id))
    if found is None:
        raise Refused(TDX_METADATA_FIELD_ID_INCORRECT)
    _, args.r8, args.rdx = found
