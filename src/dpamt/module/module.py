"""The TDX module of one machine: its state, its dispatcher's checks and its logical processors."""

from dpamt.abi.leaves import (
    RAX_LEAF_MASK,
    RAX_RESERVED_MASK,
    RAX_VERSION_MASK,
    RAX_VERSION_SHIFT,
    TDH_SYS_LP_SHUTDOWN,
)
from dpamt.abi.metadata import TDX_FEATURES0_SYS_DISABLE
from dpamt.abi.operands import OPERAND_RAX
from dpamt.abi.pages import MAX_PA_LIMIT, PAGE_SHIFT, PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import U64_MASK
from dpamt.abi.states import SYS_READY, SYS_SHUTDOWN, SYSINIT_PENDING, TD_KEYS_CONFIGURED
from dpamt.abi.status import TDX_OPERAND_INVALID, TDX_SYS_NOT_READY, TDX_SYS_SHUTDOWN
from dpamt.errors import InputError
from dpamt.module.keys import Keys
from dpamt.module.leaves.table import ANNOUNCED, BEFORE_READY, HANDLERS, Handler
from dpamt.module.metadata import global_metadata
from dpamt.module.pamt import Pamt
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.releases import Release, release_named
from dpamt.module.td import HEADER_LIFECYCLE_SHIFT, HEADER_TDCX_SHIFT, Tds
from dpamt.module.tdmrs import Tdmrs
from dpamt.platform.guest import GuestProgram
from dpamt.platform.machine import Machine
from dpamt.platform.physical_memory import Memory
from dpamt.sync import Shared


class TdxModule:
    """The module as loaded and not initialised; a host talks to ``processor(i).seamcall``.

    Inputs of the platform that no call carries are plain attributes, good for every SEAMCALL from
    the moment they are set: ``interrupt_pending`` (an interrupt waits for the logical processor),
    ``entropy_available`` (RDRAND and RDSEED deliver), ``key_engine_works`` (PCONFIG succeeds).

    Not modelled: migration, TDX Connect, service TDs; their leaves are answered as unknown ones.

    Raises InputError for an unknown release name.
    """

    def __init__(
        self,
        memory: Memory,
        machine: Machine,
        release: str | Release = "2.0.18",
        shared: Shared | None = None,
    ) -> None:
        self.memory = memory
        self.machine = machine
        self.release = release_named(release) if isinstance(release, str) else release
        self.shared = shared = shared if shared is not None else Shared()
        self.pamt = Pamt(shared)
        self.tds = Tds(shared, self.release.host_priority_sept_tree)
        self.keys = Keys(shared, machine)
        self.kot = self.keys.kot
        self.tdmrs = Tdmrs(shared)
        system = shared.words("module.sys")
        self.sys_state = system.at(0)
        self.sys_packages = system.at(1)
        """Packages on which SYS.KEY.CONFIG is done, one bit each."""
        self.handoff = system.at(2)
        """Handoff version + 1 of SYS.SHUTDOWN, for the module that is loaded next; 0: none."""
        self.lps_initialized = shared.words("module.sys.lp")
        """By logical processor: 1 when SYS.LP.INIT is done."""
        self.global_locks = shared.shared_exclusive_locks("module.sys.lock")
        self.global_lock = self.global_locks.at(0)

        self.interrupt_pending = False
        self.interrupt_vector = 0x20
        """Vector of that interrupt, for the host whose VCPU it makes leave."""
        self.entropy_available = True
        self.key_engine_works = True
        self.seamrr = range(0)
        """SEAM memory, byte addresses: no operand may name it as shared memory."""
        self.guests: dict[int, GuestProgram] = {}
        """What runs on a VCPU, by the frame number of its TDVPR."""

        self.hkid_mask = (1 << machine.max_pa_bits) - (1 << machine.hkid_start_bit)
        self.not_private = U64_MASK & ~(MAX_PA_LIMIT - 1) | self.hkid_mask
        """Address bits that a private HPA has clear, besides those of its alignment."""
        self.not_private_4k = self.not_private | PAGE_SIZE - 1
        self.not_private_2m = self.not_private | SIZE_2M - 1
        self.header_min_tdcx = self.release.min_tdcs_pages << HEADER_TDCX_SHIFT
        self.live_headers = frozenset(
            TD_KEYS_CONFIGURED << HEADER_LIFECYCLE_SHIFT | pages << HEADER_TDCX_SHIFT
            for pages in range(self.release.min_tdcs_pages, self.release.max_tdcs_pages + 1)
        )
        """Low bits of headers that pass STATE: not FATAL, keys configured, TDCS complete."""
        features = self.release.features0
        self.ready_handlers: dict[int, Handler] = {
            number: handler
            for number, handler in HANDLERS.items()
            if not ANNOUNCED.get(number, 0) & ~features
        }
        """Version 0 of every leaf that this release has, by RAX; anything else goes through
        :meth:`admit`."""
        self.metadata = global_metadata(self)
        """What SYS.RD reads."""
        cpus, packages = machine.topology.cpus, machine.topology.packages
        self.all_packages = (1 << packages) - 1
        """One bit for each package."""
        self.processors = tuple(
            LogicalProcessor(self, index, index * packages // cpus) for index in range(cpus)
        )

    def install(self, release: Release) -> None:
        """What the P-SEAMLDR does when every CPU has asked it to: load ``release`` over this one.

        Memory and TDs stay as they are; SYS.INIT, SYS.LP.INIT on every CPU and SYS.UPDATE go on
        from there.  Raises InputError before SYS.SHUTDOWN, and for a release whose TDs have another
        shape.
        """
        old = self.release
        same = ("min_tdcs_pages", "max_tdcs_pages", "sept_root_page", "host_priority_sept_tree")
        state = self.sys_state.load()
        handed_over = self.handoff.load()
        if state != SYS_SHUTDOWN or not handed_over:
            raise InputError(f"module {old.name}: expected TDH.SYS.SHUTDOWN before another one")
        for name in same:
            if getattr(old, name) != getattr(release, name):
                raise InputError(f"module {release.name}: {name} is not that of {old.name}")
        if (old.features0 ^ release.features0) & TDX_FEATURES0_SYS_DISABLE:
            raise InputError(f"module {release.name}: its leaves are not those of {old.name}")
        self.release = release
        self.metadata = global_metadata(self)
        for index in range(len(self.processors)):
            self.lps_initialized.at(index).store(0)
        self.sys_state.store(SYSINIT_PENDING)

    def processor(self, index: int) -> LogicalProcessor:
        """Logical processor ``index``; packages hold them in equal runs."""
        return self.processors[index]

    def attach_guest(self, tdvpr_hpa: int, program: GuestProgram) -> None:
        """Say what the VCPU whose TDVPR is at ``tdvpr_hpa`` executes from TDH.VP.ENTER on."""
        self.guests[tdvpr_hpa >> PAGE_SHIFT] = program

    def tdmr_init_pages(self) -> int:
        """4K pages that one SYS.TDMR.INIT initialises."""
        if self.pamt.dynamic:
            return self.release.tdmr_init_pages_dynamic
        return self.release.tdmr_init_pages_static

    def admit(self, lp: LogicalProcessor, rax: int) -> Handler:
        """The dispatcher's checks, in its order; sets ``lp.version``.

        Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdx_vmm_dispatcher.c];
        reference (a.3).
        """
        leaf = rax & RAX_LEAF_MASK
        version = rax >> RAX_VERSION_SHIFT & RAX_VERSION_MASK
        if rax & RAX_RESERVED_MASK:
            raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
        if leaf in self.release.tdx_connect_leaves:
            raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
        if version and leaf not in self.release.versioned_leaves:
            raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
        state = self.sys_state.load()
        if state == SYS_SHUTDOWN and leaf != TDH_SYS_LP_SHUTDOWN:
            raise Refused(TDX_SYS_SHUTDOWN)
        if state != SYS_READY and leaf not in BEFORE_READY:
            raise Refused(TDX_SYS_NOT_READY)
        handler = self.ready_handlers.get(leaf)
        if handler is None:
            raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
        lp.version = version
        return handler
