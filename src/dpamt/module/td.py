"""The state of TDs and VCPUs: TDR, TDCS and TDVPS fields, words addressed by TDR or TDVPR page.

``header`` packs what the checks of every leaf look at first, so that they read it in one step::

    31:16 HKID | 15:8 packages with the key configured | 7:3 NUM_TDCX | 2:1 life cycle | 0 FATAL

``eptp`` is the secure EPT pointer: frame number of the root S-EPT page << 8 | levels << 1 | GPAW.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18: TDR, TDCS and TDVPS structures.
"""

from typing import Final

from dpamt.abi.pages import LEVEL_PML5E, PAGE_SHIFT, PT_REG
from dpamt.abi.td_params import MAX_L2_VMS, PRIVATE_GPA_BITS
from dpamt.module.pamt import OWNER_SHIFT, PamtRegion
from dpamt.sync import (
    EntryPages,
    HostPriorityWord,
    Shared,
    SharedExclusiveLock,
    Way,
    Word,
    way_down,
)

HEADER_FATAL: Final = 1
HEADER_LIFECYCLE_SHIFT: Final = 1
HEADER_LIFECYCLE_MASK: Final = 3 << HEADER_LIFECYCLE_SHIFT
HEADER_TDCX_SHIFT: Final = 3
HEADER_TDCX_MASK: Final = 31 << HEADER_TDCX_SHIFT
HEADER_TDCX_ONE: Final = 1 << HEADER_TDCX_SHIFT
HEADER_PACKAGES_SHIFT: Final = 8
HEADER_PACKAGES_MASK: Final = 0xFF << HEADER_PACKAGES_SHIFT
HEADER_HKID_SHIFT: Final = 16

EPTP_ROOT_SHIFT: Final = 8
EPTP_LEVELS_SHIFT: Final = 1
EPTP_LEVELS_MASK: Final = 7 << EPTP_LEVELS_SHIFT
EPTP_GPAW: Final = 1

NO_LP: Final = 0
"""``Vcpu.lp`` of a VCPU that is associated with no logical processor."""

_X2APIC_ID_SHIFT: Final = 16


def eptp_shape(eptp: int) -> tuple[int, int, int]:
    """(root S-EPT page, level of its entries, first guest frame that is not private)."""
    levels = (eptp & EPTP_LEVELS_MASK) >> EPTP_LEVELS_SHIFT
    return eptp >> EPTP_ROOT_SHIFT, levels - 1, 1 << PRIVATE_GPA_BITS[eptp & EPTP_GPAW] - PAGE_SHIFT


class Td:
    """The words of one TD; ``page`` is its TDR's frame number."""

    __slots__ = (
        "associated",
        "attributes",
        "children",
        "config_flags",
        "cpuid",
        "epoch",
        "epoch_lock",
        "epoch_readers",
        "eptp",
        "header",
        "l2_roots",
        "l2_vms",
        "limit",
        "max_vcpus",
        "op_state",
        "page",
        "reg_entry",
        "tree",
        "tsc_frequency",
        "vcpus",
        "ways",
        "xfam",
    )

    def __init__(self, page: int, tds: "Tds") -> None:
        self.page = page
        self.reg_entry = page << OWNER_SHIFT | PT_REG
        """PAMT entry of a page of the TD's memory."""
        self.header = tds.header.at(page)
        self.children = tds.children.at(page)
        """CHLDCNT: 4K pages that the TD has beside its TDR."""
        self.op_state = tds.op_state.at(page)
        """OP_STATE is the payload of its own lock."""
        self.eptp = tds.eptp.at(page)
        self.limit = 0
        """First guest frame that is not private; 0 until :meth:`know_ways`."""
        self.ways: tuple[Way, ...] = ()
        """By level wanted: the way down the S-EPT."""
        self.tree: HostPriorityWord | SharedExclusiveLock = tds.tree.at(page)
        self.epoch = tds.epoch.at(page)
        self.epoch_readers = (tds.epoch_readers.at(2 * page), tds.epoch_readers.at(2 * page + 1))
        """REFCOUNT[parity]: VCPUs inside that entered in an epoch of that parity."""
        self.epoch_lock = tds.epoch_lock.at(page)
        self.attributes = tds.attributes.at(page)
        self.xfam = tds.xfam.at(page)
        self.config_flags = tds.config_flags.at(page)
        self.tsc_frequency = tds.tsc_frequency.at(page)
        """Units of 25 MHz."""
        self.cpuid = tds.cpuid.at(page)
        """The CPUID part of TD_PARAMS, a little-endian integer.

        This word and the three above are MNG.INIT's; until then nobody can read them.
        """
        self.max_vcpus = tds.max_vcpus.at(page)
        self.vcpus = tds.vcpus.at(page)
        """NUM_VCPUS: initialised VCPUs."""
        self.associated = tds.associated.at(page)
        """NUM_ASSOC_VCPUS: VCPUs associated with a logical processor."""
        self.l2_vms = tds.l2_vms.at(page)
        self.l2_roots = tuple(tds.l2_roots.at(4 * page + vm) for vm in range(MAX_L2_VMS + 1))
        """Frame number of the root L2 S-EPT page of each L2 VM; 0 of VM 0 is not used."""

    def know_ways(self, septs: EntryPages) -> None:
        """Derive from the secure EPT pointer, once it is set for good, what walks need.

        It spares a short cut the arithmetic; walks by steps go by the pointer itself.
        """
        eptp = self.eptp.load()
        root, highest, self.limit = eptp_shape(eptp)
        levels = range(LEVEL_PML5E + 1)
        self.ways = tuple(way_down(septs, root, highest, level) for level in levels)

    def clear(self) -> None:
        """Everything 0, as in a zeroed TDR and before its TDCS; the locks stay as they are."""
        self.header.store(0)
        self.children.store(0)
        self.op_state.store(0)
        self.eptp.store(0)
        self.limit = 0
        self.epoch.store(0)
        self.epoch_readers[0].store(0)
        self.epoch_readers[1].store(0)
        self.attributes.store(0)
        self.max_vcpus.store(0)
        self.vcpus.store(0)
        self.associated.store(0)
        self.l2_vms.store(0)
        for vm in range(MAX_L2_VMS + 1):
            self.l2_roots[vm].store(0)


class Vcpu:
    """The words of one VCPU; ``page`` is its TDVPR's frame number."""

    __slots__ = ("fields", "lp", "page", "pages", "state")

    def __init__(self, page: int, tds: "Tds") -> None:
        self.page = page
        self.state = tds.vcpu_state.at(page)
        self.pages = tds.vcpu_pages.at(page)
        """4K pages of its TDVPS, the TDVPR included."""
        self.lp = tds.vcpu_lp.at(page)
        """The logical processor it is associated with, its index + 1; :data:`NO_LP` for none."""
        self.fields = tds.vcpu_fields.at(page)
        """What VP.WR writes: :mod:`dpamt.module.vcpu_fields`; 0 as VP.INIT leaves it."""

    def clear(self) -> None:
        """As VP.CREATE leaves it: not initialised, only the TDVPR, on no logical processor."""
        self.state.store(0)
        self.pages.store(1)
        self.lp.store(NO_LP)


class Tds:
    """The words of every TD of a machine.

    ``host_priority_tree`` says of which kind the S-EPT tree locks are (it differs by release).
    """

    def __init__(self, shared: Shared, host_priority_tree: bool = True) -> None:
        self.header = shared.words("module.td.header")
        self.children = shared.words("module.td.chldcnt")
        self.op_state = shared.host_priority_words("module.td.op_state")
        self.eptp = shared.words("module.td.eptp")
        name = "module.td.sept_tree"
        self.tree = (
            shared.host_priority_words(name)
            if host_priority_tree
            else shared.shared_exclusive_locks(name)
        )
        self.epoch = shared.words("module.td.epoch")
        self.epoch_readers = shared.words("module.td.epoch_refcount")
        self.epoch_lock = shared.shared_exclusive_locks("module.td.epoch_lock")
        self.attributes = shared.words("module.td.attributes")
        self.xfam = shared.words("module.td.xfam")
        self.config_flags = shared.words("module.td.config_flags")
        self.tsc_frequency = shared.words("module.td.tsc_frequency")
        self.cpuid = shared.words("module.td.cpuid")
        self.max_vcpus = shared.words("module.td.max_vcpus")
        self.vcpus = shared.words("module.td.num_vcpus")
        self.associated = shared.words("module.td.num_assoc_vcpus")
        self.l2_vms = shared.words("module.td.num_l2_vms")
        self.l2_roots = shared.words("module.td.l2_sept_root")
        self.x2apic_ids = shared.words("module.td.x2apic_id")
        self.vcpu_state = shared.words("module.vcpu.state")
        self.vcpu_pages = shared.words("module.vcpu.pages")
        self.vcpu_lp = shared.words("module.vcpu.lp")
        self.vcpu_fields = shared.words("module.vcpu.fields")
        self.sept = shared.entry_pages("module.td.sept")
        """S-EPT pages by frame number; an entry's word: :mod:`dpamt.module.sept`."""
        self._known: dict[int, Td] = {}
        self.places: dict[int, tuple[PamtRegion, int, Td]] = {}
        """By TDR HPA: where its PAMT entry is, and the words of the TD; never changes."""
        self._vcpus: dict[int, Vcpu] = {}

    def at(self, page: int) -> Td:
        """The words of the TD whose TDR is ``page``; finding them is no step."""
        td = self._known.get(page)
        if td is None:
            td = self._known[page] = Td(page, self)
        return td

    def vcpu(self, page: int) -> Vcpu:
        """The words of the VCPU whose TDVPR is ``page``; finding them is no step."""
        vcpu = self._vcpus.get(page)
        if vcpu is None:
            vcpu = self._vcpus[page] = Vcpu(page, self)
        return vcpu

    def x2apic_id(self, td: Td, index: int) -> Word:
        """The x2APIC ID of the TD's VCPU ``index``; 0 is the first initialised.

        Only those below NUM_VCPUS mean anything.
        """
        return self.x2apic_ids.at(td.page << _X2APIC_ID_SHIFT | index)
