"""Releases of the TDX module: what differs between them, as data."""

from dataclasses import dataclass, replace
from typing import Final

from dpamt.abi import leaves as leaf
from dpamt.abi.metadata import (
    TDX_FEATURES0_BITS,
    TDX_FEATURES0_DYNAMIC_PAMT,
    TDX_FEATURES0_ENHANCED_DEMOTE_INTERRUPTIBILITY,
    TDX_FEATURES0_NO_RBP_MOD,
    TDX_FEATURES0_SYS_DISABLE,
    TDX_FEATURES0_TOPOLOGY_ENUM,
)
from dpamt.errors import InputError

_HOST_PRIORITY_LOCKS: Final = 1 << TDX_FEATURES0_BITS["HOST_PRIORITY_LOCKS"]
_FEATURES: Final = (
    TDX_FEATURES0_NO_RBP_MOD
    | TDX_FEATURES0_DYNAMIC_PAMT
    | _HOST_PRIORITY_LOCKS
    | TDX_FEATURES0_TOPOLOGY_ENUM
)
"""TDX_FEATURES0 bits for what is modelled here; a real release reports more."""

_VERSIONED: Final = frozenset(
    {
        leaf.TDH_MEM_PAGE_PROMOTE,
        leaf.TDH_MEM_SEPT_ADD,
        leaf.TDH_MEM_SEPT_REMOVE,
        leaf.TDH_MNG_RD,
        leaf.TDH_VP_RD,
        leaf.TDH_VP_INIT,
    }
)


@dataclass(frozen=True, slots=True)
class Release:
    """One release of the module.

    Sizes of TDCS are 4K pages: ``min_tdcs_pages`` without L2 VMs, ``max_tdcs_pages`` with three.
    ``sept_root_page`` is the index of the TDCX page that is the root S-EPT page.
    ``tdmr_init_pages_*`` are the 4K pages that one SYS.TDMR.INIT initialises.
    """

    name: str
    major: int
    minor: int
    update: int
    features0: int
    """TDX_FEATURES0."""
    versioned_leaves: frozenset[int]
    """Leaves whose SEAMCALL version may be above 0; the leaf itself refuses what is too high."""
    min_tdcs_pages: int
    max_tdcs_pages: int
    sept_root_page: int
    tdmr_init_pages_static: int
    tdmr_init_pages_dynamic: int
    sys_config_max_version: int
    hkid_reserved_early: bool
    """SYS.CONFIG reserves the module's KeyID before its last checks, and leaves it so."""
    host_priority_sept_tree: bool
    """The S-EPT tree lock is a host-priority lock, not a plain one."""
    promote_tree_exclusive: bool
    """PROMOTE takes the S-EPT tree exclusively instead of the 512 entries' locks."""
    interrupt_needs_l2_vms: bool
    """DEMOTE and PROMOTE look for a pending interrupt only where the TD has L2 VMs."""
    tdx_connect_leaves: range
    """Leaves that the dispatcher refuses before it looks at the system's state."""
    late_addcx_shows_op_state: bool
    """ADDCX of an optional TDCX page after MNG.INIT names the OP_STATE in the status."""
    module_hv: int = 1
    min_update_hv: int = 0
    """Handoff versions that SYS.SHUTDOWN may ask for: from ``min_update_hv`` to ``module_hv``."""

    @property
    def knows_dynamic_pamt(self) -> bool:
        """Whether TDX_FEATURES0 offers Dynamic PAMT."""
        return self.features0 & TDX_FEATURES0_DYNAMIC_PAMT != 0


RELEASES: Final[dict[str, Release]] = {
    release.name: release
    for release in (
        Release(
            name="1.5.25",
            major=1,
            minor=5,
            update=25,
            features0=_FEATURES,
            versioned_leaves=_VERSIONED | {leaf.TDH_SYS_INIT, leaf.TDH_SYS_UPDATE},
            min_tdcs_pages=6,
            max_tdcs_pages=9,
            sept_root_page=3,  # not recorded; no answer of the module depends on it
            tdmr_init_pages_static=1024,
            tdmr_init_pages_dynamic=4096,
            sys_config_max_version=0,
            hkid_reserved_early=True,
            host_priority_sept_tree=True,
            promote_tree_exclusive=True,
            interrupt_needs_l2_vms=False,
            tdx_connect_leaves=range(0),
            late_addcx_shows_op_state=True,
        ),
        Release(
            name="2.0.08",
            major=2,
            minor=0,
            update=8,
            features0=_FEATURES,
            versioned_leaves=_VERSIONED,
            min_tdcs_pages=9,
            max_tdcs_pages=12,
            sept_root_page=6,
            tdmr_init_pages_static=1024,
            tdmr_init_pages_dynamic=4096,
            sys_config_max_version=0,
            hkid_reserved_early=True,
            host_priority_sept_tree=False,
            promote_tree_exclusive=False,
            interrupt_needs_l2_vms=False,
            tdx_connect_leaves=leaf.TDX_CONNECT_LEAVES,
            late_addcx_shows_op_state=False,
        ),
        Release(
            name="2.0.18",
            major=2,
            minor=0,
            update=18,
            features0=_FEATURES | TDX_FEATURES0_ENHANCED_DEMOTE_INTERRUPTIBILITY,
            versioned_leaves=_VERSIONED
            | {
                leaf.TDH_SYS_INIT,
                leaf.TDH_SYS_CONFIG,
                leaf.TDH_SYS_UPDATE,
                leaf.TDH_EXPORT_MEM,
                leaf.TDH_EXPORT_BLOCKW,
                leaf.TDH_EXPORT_RESTORE,
                leaf.TDH_IMPORT_MEM,
                leaf.TDH_MEM_SHARED_SEPT_WR,
            },
            min_tdcs_pages=9,
            max_tdcs_pages=12,
            sept_root_page=6,
            tdmr_init_pages_static=1024,
            tdmr_init_pages_dynamic=1024,
            sys_config_max_version=1,
            hkid_reserved_early=False,
            host_priority_sept_tree=True,
            promote_tree_exclusive=True,
            interrupt_needs_l2_vms=True,
            tdx_connect_leaves=leaf.TDX_CONNECT_LEAVES,
            late_addcx_shows_op_state=False,
        ),
    )
}
"""Name to release.

Source: Intel TDX module source (open release), 2.0.08 and 2.0.18; for 1.5.25, answers recorded
from that release (``tests/data/module-vectors.jsonl``).
"""


WITH_SYS_DISABLE: Final = "+sys-disable"
"""Ends the name of a release that has TDH.SYS.DISABLE as well, which later ones announce."""


def release_named(name: str) -> Release:
    """The release of that name; InputError for an unknown one."""
    release = RELEASES.get(name.removesuffix(WITH_SYS_DISABLE))
    if release is None:
        raise InputError(
            f"TDX module release {name!r}: expected one of {', '.join(RELEASES)}, or one of them "
            f"with {WITH_SYS_DISABLE} behind"
        )
    if name.endswith(WITH_SYS_DISABLE):
        features = release.features0 | TDX_FEATURES0_SYS_DISABLE
        return replace(release, name=name, features0=features)
    return release


_FIRST_DYNAMIC: Final = {1: (1, 5, 25), 2: (2, 0, 0)}
"""The first version of each line that offers Dynamic PAMT, as far as releases were looked at."""


def offers_dynamic_pamt(version: str) -> bool | None:
    """Whether a module of this version offers Dynamic PAMT; None where the version is too short to
    tell (kernels before 6.14 print ``1.5`` for all of 1.5).

    Source: Intel TDX module, 1.5.25, 2.0.08 and 2.0.18 (open releases) offer it; 1.5.24 does not.
    """
    parts = tuple(int(part) for part in version.split("."))
    first = _FIRST_DYNAMIC.get(parts[0])
    if first is None:
        return parts > (2,)
    if len(parts) < 3 and parts[:2] == first[:2] and first[2]:
        return None
    return parts >= first
