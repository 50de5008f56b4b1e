"""A real module on a small machine, and TDs made in it by real SEAMCALLs, for tests and timings."""

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import PAGE_SIZE, SIZE_1G, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import TDX_SUCCESS, status_name
from dpamt.abi.td_params import (
    MAX_L2_VMS,
    TD_PARAMS_BYTES,
    TDVPS_MIN_PAGES,
    TDVPS_PAGES_PER_L2_VM,
    TdParams,
)
from dpamt.abi.tdmr import SYS_CONFIG_DYNAMIC_PAMT, TdmrInfo
from dpamt.module.module import TdxModule
from dpamt.platform.machine import Cmr, Machine, MemoryBlock, Topology
from dpamt.platform.physical_memory import PhysicalMemory

FIRST = 4 * SIZE_1G
"""The TDMR: 4 GiB up to 8 GiB; PAMT and bitmap lie below 4 GiB."""
SIZE = 4 * SIZE_1G
PAIRS = FIRST + 3 * SIZE_1G
"""Where pairs are taken from."""
RESERVED = FIRST + 2 * SIZE_1G
"""A reserved area of 4 pages."""
_LOW = SIZE_1G
_POINTERS = 0x10000
_INFO = 0x11000
_PARAMS = 0x12000
PARAMS_L2 = _PARAMS + TD_PARAMS_BYTES
"""TD_PARAMS of a TD with one L2 VM; those of 2 and 3 follow."""
SOURCE = 0x20000


def params_of(l2_vms: int) -> int:
    """Where TD_PARAMS of a TD with so many L2 VMs are."""
    return _PARAMS + l2_vms * TD_PARAMS_BYTES


class Rig:
    """A module with one TDMR; ``call`` makes a SEAMCALL, ``must`` one that has to succeed.

    With ``started`` False nothing has been called yet; ``config`` are the registers of SYS.CONFIG.
    """

    def __init__(
        self,
        dynamic: bool = True,
        release: str = "2.0.18",
        cpus: int = 2,
        packages: int = 1,
        started: bool = True,
    ) -> None:
        self.memory = PhysicalMemory()
        machine = Machine(
            source="rig",
            cmrs=(Cmr(1 << 20, 9 * SIZE_1G - (1 << 20)),),
            memory=(MemoryBlock(1 << 8, 9 * SIZE_1G >> 12, 0),),
            max_pfn=9 * SIZE_1G >> 12,
            topology=Topology(packages=packages, cpus=cpus),
        )
        self.module = TdxModule(self.memory, machine, release)
        self.hkid = machine.private_keyids[0]
        self.dynamic = dynamic
        self._pair = PAIRS
        for l2_vms in range(MAX_L2_VMS + 1):
            params = TdParams(max_vcpus=4, num_l2_vms=l2_vms)
            self.memory.write(params_of(l2_vms), params.pack())
        self.memory.write64(_POINTERS, _INFO)
        self.memory.write(_INFO, self._tdmr_info().pack())
        mode = SYS_CONFIG_DYNAMIC_PAMT if dynamic else 0
        self.config = {"rcx": _POINTERS, "rdx": 1, "r8": self.hkid | mode}
        if started:
            self._start()

    def _tdmr_info(self) -> TdmrInfo:
        gib = SIZE // SIZE_1G
        pamt_4k = SIZE // PAGE_SIZE // 8 if self.dynamic else SIZE // PAGE_SIZE * 16
        return TdmrInfo(
            base=FIRST,
            size=SIZE,
            pamt_1g_base=_LOW,
            pamt_1g_size=PAGE_SIZE,
            pamt_2m_base=_LOW + PAGE_SIZE,
            pamt_2m_size=gib * 8192,
            pamt_4k_base=_LOW + SIZE_2M,
            pamt_4k_size=pamt_4k,
            reserved=[(RESERVED - FIRST, 4 * PAGE_SIZE)],
        )

    def _start(self) -> None:
        self.must(leaf.TDH_SYS_INIT)
        for cpu in range(len(self.module.processors)):
            self.must(leaf.TDH_SYS_LP_INIT, cpu=cpu)
        self.must(leaf.TDH_SYS_CONFIG, **self.config)
        for cpu in self.one_cpu_of_each_package():
            self.must(leaf.TDH_SYS_KEY_CONFIG, cpu=cpu)
        done = FIRST
        while done < FIRST + SIZE:
            done = self.must(leaf.TDH_SYS_TDMR_INIT, rcx=FIRST).rdx

    def one_cpu_of_each_package(self) -> list[int]:
        return list({lp.package: lp.index for lp in self.module.processors}.values())

    def call(
        self, number: int, version: int = 0, cpu: int = 0, **registers: int
    ) -> tuple[int, TdxModuleArgs]:
        args = TdxModuleArgs.of(**registers)
        rax = number | version << leaf.RAX_VERSION_SHIFT
        return self.module.processor(cpu).seamcall(rax, args), args

    def must(self, number: int, version: int = 0, cpu: int = 0, **registers: int) -> TdxModuleArgs:
        status, args = self.call(number, version, cpu, **registers)
        assert status == TDX_SUCCESS, (
            f"{leaf.LEAF_NAMES[number]}: {status_name(status)} {status:#x}"
        )
        return args

    def add_pair(self, region: int) -> None:
        """Give the 2M region at this HPA a pair, from where pairs come from."""
        if self.dynamic:
            pair = self.take_pair()
            self.must(leaf.TDH_PHYMEM_PAMT_ADD, rcx=region | 1, rdx=pair[0], r8=pair[1])

    def take_pair(self) -> tuple[int, int]:
        """Two pages that nobody has had."""
        self._pair += 2 * PAGE_SIZE
        return self._pair - 2 * PAGE_SIZE, self._pair - PAGE_SIZE

    def make_td(
        self, base: int, hkid: int, finalize: bool = True, l2_vms: int = 0, vcpus: int = 1
    ) -> int:
        """A TD whose control pages lie in the 2M region at ``base``; its TDR.

        S-EPT pages for GPA 0 to 2M are there too, at the 64th page; 64 to 511 are free.
        """
        self.add_pair(base)
        pages = iter(range(base, base + SIZE_2M, PAGE_SIZE))
        tdr = next(pages)
        self.must(leaf.TDH_MNG_CREATE, rcx=tdr, rdx=hkid)
        for cpu in self.one_cpu_of_each_package():
            self.must(leaf.TDH_MNG_KEY_CONFIG, cpu=cpu, rcx=tdr)
        for _ in range(self.module.release.min_tdcs_pages + l2_vms):
            self.must(leaf.TDH_MNG_ADDCX, rcx=next(pages), rdx=tdr)
        self.must(leaf.TDH_MNG_INIT, rcx=tdr, rdx=params_of(l2_vms))
        for _ in range(vcpus):
            tdvpr = next(pages)
            self.must(leaf.TDH_VP_CREATE, rcx=tdvpr, rdx=tdr)
            for _ in range(TDVPS_MIN_PAGES - 1 + TDVPS_PAGES_PER_L2_VM * l2_vms):
                self.must(leaf.TDH_VP_ADDCX, rcx=next(pages), rdx=tdvpr)
            self.must(leaf.TDH_VP_INIT, rcx=tdvpr)
        for level in (3, 2, 1):
            sept = base + (64 + level) * PAGE_SIZE
            self.must(leaf.TDH_MEM_SEPT_ADD, rcx=level, rdx=tdr, r8=sept)
        if finalize:
            self.must(leaf.TDH_MR_FINALIZE, rcx=tdr)
        return tdr

    def tdvpr(self, tdr: int, l2_vms: int = 0) -> int:
        """The first VCPU of a TD that :meth:`make_td` made."""
        return tdr + (1 + self.module.release.min_tdcs_pages + l2_vms) * PAGE_SIZE
