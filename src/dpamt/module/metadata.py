"""The global metadata of a module: which fields it has, their order and their values.

Fields without a known value (handoff data, allowed processor models) are left out.  Order is that
of class and field code.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (k.2).
"""

from typing import TYPE_CHECKING

from dpamt.abi import metadata as field
from dpamt.abi.cpuid import CPUID_CONFIG
from dpamt.abi.metadata import MetadataField, lookup_key
from dpamt.abi.pages import (
    MAX_DYNAMIC_PAMT_HKID_START_BIT,
    PAGE_SIZE,
    PAMT_BITMAP_ENTRY_BITS,
    PAMT_ENTRY_SIZE,
)
from dpamt.abi.td_params import TDVPS_MIN_PAGES, TDVPS_PAGES_PER_L2_VM
from dpamt.abi.tdmr import MAX_CMRS, MAX_RESERVED_PER_TDMR, MAX_TDMRS

if TYPE_CHECKING:
    from dpamt.module.module import TdxModule

GlobalMetadata = dict[tuple[int, int], tuple[int, int, int]]
"""(class, field code) to (id, value, id of the next field), in order."""


def global_metadata(module: "TdxModule") -> GlobalMetadata:
    """Every field that SYS.RD of this module can read."""
    values = dict(field.FIXED_VALUES) | _release_values(module) | _machine_values(module)
    if not module.release.knows_dynamic_pamt:
        del values[field.PAMT_PAGE_BITMAP_ENTRY_BITS]
        del values[field.MIN_DYNAMIC_PAMT_NUM_HKID_BITS]
    ids = {item.id: value for item, value in values.items()}
    for index in range(MAX_CMRS):
        cmrs = module.machine.cmrs
        ids[field.CMR_BASE.id + index] = cmrs[index].base if index < len(cmrs) else 0
        ids[field.CMR_SIZE.id + index] = cmrs[index].size if index < len(cmrs) else 0
    ids |= _cpuid_configuration()
    order = sorted(ids, key=lookup_key)
    following = [*order[1:], field.NO_FIELD]
    return {
        lookup_key(field_id): (field_id, ids[field_id], after)
        for field_id, after in zip(order, following, strict=True)
    }


def _cpuid_configuration() -> dict[int, int]:
    """The configurable CPUID rows: leaf and subleaf, then the bits that TD_PARAMS may set.

    Behind the last row, all ones and no bits.
    Source: Intel TDX module source (open release), 2.0 line [metadata_sys.c].
    """
    ids = {}
    for index in range(field.FIELD_ARRAYS[field.CPUID_CONFIG_LEAVES]):
        row = CPUID_CONFIG[index] if index < len(CPUID_CONFIG) else None
        ids[field.CPUID_CONFIG_LEAVES.id + index] = row.id if row else field.NO_FIELD
        for half in range(2):
            low, high = 0, 0
            if row:
                low = row.config[2 * half] | row.allow[2 * half]
                high = row.config[2 * half + 1] | row.allow[2 * half + 1]
            ids[field.CPUID_CONFIG_VALUES.id + 2 * index + half] = high << 32 | low
    return ids


def _release_values(module: "TdxModule") -> dict[MetadataField, int]:
    release = module.release
    return {
        field.MAJOR_VERSION: release.major,
        field.MINOR_VERSION: release.minor,
        field.UPDATE_VERSION: release.update,
        field.MODULE_HV: release.module_hv,
        field.MIN_UPDATE_HV: release.min_update_hv,
        field.TDX_FEATURES0: release.features0,
        field.MAX_TDMRS: MAX_TDMRS,
        field.MAX_RESERVED_PER_TDMR: MAX_RESERVED_PER_TDMR,
        field.PAMT_4K_ENTRY_SIZE: PAMT_ENTRY_SIZE,
        field.PAMT_2M_ENTRY_SIZE: PAMT_ENTRY_SIZE,
        field.PAMT_1G_ENTRY_SIZE: PAMT_ENTRY_SIZE,
        field.PAMT_PAGE_BITMAP_ENTRY_BITS: PAMT_BITMAP_ENTRY_BITS,
        field.TDR_BASE_SIZE: PAGE_SIZE,
        field.TDCS_BASE_SIZE: release.min_tdcs_pages * PAGE_SIZE,
        field.TDCS_SIZE_PER_L2_VM: PAGE_SIZE,
        field.TDVPS_BASE_SIZE: TDVPS_MIN_PAGES * PAGE_SIZE,
        field.TDVPS_SIZE_PER_L2_VM: TDVPS_PAGES_PER_L2_VM * PAGE_SIZE,
        field.NUM_CPUID_CONFIG: len(CPUID_CONFIG),
    }


def _machine_values(module: "TdxModule") -> dict[MetadataField, int]:
    machine = module.machine
    return {
        field.NUM_PKGS: machine.topology.packages,
        field.NUM_CMRS: MAX_CMRS,
        field.MIN_DYNAMIC_PAMT_NUM_HKID_BITS: max(
            0, machine.max_pa_bits - MAX_DYNAMIC_PAMT_HKID_START_BIT
        ),
    }
