"""KeyIDs on a machine of two packages: nothing happens before every package has done its part."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.operands import OPERAND_KET, OPERAND_KOT, OPERAND_RCX, OPERAND_RDX, OPERAND_WBCACHE
from dpamt.abi.pages import PAGE_SIZE
from dpamt.module.module import TdxModule
from dpamt.module.view import ModuleView
from tests.module.rig import FIRST
from tests.module.test_sys import bare, boot, call

PACKAGES = (0, 1)
KEYIDS = (40, 41)
TDRS = [FIRST + index * PAGE_SIZE for index in range(2)]
tdrs = st.sampled_from([TDRS[0], TDRS[0], TDRS[0], TDRS[1]])
mostly = st.sampled_from([True, True, True, False])


def two_packages() -> TdxModule:
    """READY, CPUs 0 and 1 on package 0, 2 and 3 on package 1, a pair under the TDRs."""
    module = bare(packages=2, cpus=4)
    assert boot(module) == s.TDX_SUCCESS
    for cpu in (0, 2):
        assert call(module, leaf.TDH_SYS_KEY_CONFIG, cpu)[0] == s.TDX_SUCCESS
    for _ in range(256):
        assert call(module, leaf.TDH_SYS_TDMR_INIT, rcx=FIRST)[0] == s.TDX_SUCCESS
    pair = FIRST + (1 << 28)
    status, _ = call(module, leaf.TDH_PHYMEM_PAMT_ADD, rcx=FIRST | 1, rdx=pair, r8=pair + PAGE_SIZE)
    assert status == s.TDX_SUCCESS
    return module


class KeyMachine(RuleBasedStateMachine):
    """Each TD is where the oracle says; each KeyID has one owner."""

    @initialize()
    def start(self) -> None:
        self.module = two_packages()
        self.stage: dict[int, str] = {}
        """TDR to assigned, configured, blocked or torn down."""
        self.keyid: dict[int, int] = {}
        self.configured: dict[int, set[int]] = {}
        self.dirty: dict[int, set[int]] = {}
        self.interrupted: dict[int, set[int]] = {}
        """Package to the KeyIDs that its interrupted write-back is for."""

    def call(self, number: int, package: int = 0, **registers: int) -> int:
        return call(self.module, number, 2 * package, **registers)[0]

    @rule(tdr=tdrs, keyid=st.sampled_from(KEYIDS), entropy=mostly)
    def create(self, tdr: int, keyid: int, entropy: bool) -> None:
        self.module.entropy_available = entropy
        status = self.call(leaf.TDH_MNG_CREATE, rcx=tdr, rdx=keyid)
        if tdr in self.stage:
            assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX
        elif keyid in self.keyid.values():
            assert status == s.TDX_HKID_NOT_FREE
        elif not entropy:
            assert status == s.TDX_RND_NO_ENTROPY
        else:
            assert status == s.TDX_SUCCESS
            self.stage[tdr] = "assigned"
            self.keyid[tdr] = keyid
            self.configured[tdr] = set()

    @rule(tdr=tdrs, keyid=st.sampled_from(KEYIDS))
    def create_and_configure(self, tdr: int, keyid: int) -> None:
        self.create(tdr, keyid, entropy=True)
        for package in PACKAGES:
            self.configure(tdr, package, works=True)

    @rule(tdr=tdrs)
    def end(self, tdr: int) -> None:
        self.flush_done(tdr)
        for package in PACKAGES:
            self.write_back(package, go_on=True, interrupt=False)
        self.free(tdr)
        self.reclaim(tdr)

    @rule(tdr=tdrs, package=st.sampled_from(PACKAGES), works=mostly)
    def configure(self, tdr: int, package: int, works: bool) -> None:
        self.module.key_engine_works = works
        status = self.call(leaf.TDH_MNG_KEY_CONFIG, package, rcx=tdr)
        if tdr not in self.stage:
            assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX
        elif self.stage[tdr] != "assigned":
            assert status == s.TDX_LIFECYCLE_STATE_INCORRECT
        elif package in self.configured[tdr]:
            assert status == s.TDX_KEY_CONFIGURED
        elif not works:
            assert status == s.TDX_KEY_GENERATION_FAILED
        else:
            assert status == s.TDX_SUCCESS
            self.configured[tdr].add(package)
            if self.configured[tdr] == set(PACKAGES):
                self.stage[tdr] = "configured"

    @rule(tdr=tdrs)
    def flush_done(self, tdr: int) -> None:
        status = self.call(leaf.TDH_MNG_VPFLUSHDONE, rcx=tdr)
        if tdr not in self.stage:
            assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX
        elif self.stage[tdr] not in ("assigned", "configured"):
            assert status == s.TDX_LIFECYCLE_STATE_INCORRECT
        else:
            assert status == s.TDX_SUCCESS
            self.stage[tdr] = "blocked"
            self.dirty[tdr] = set(PACKAGES)

    @rule(package=st.sampled_from(PACKAGES), go_on=mostly, interrupt=st.booleans())
    def write_back(self, package: int, go_on: bool, interrupt: bool) -> None:
        resume = go_on and package in self.interrupted
        resume = resume or (not go_on and not interrupt)
        self.module.interrupt_pending = interrupt
        status = self.call(leaf.TDH_PHYMEM_CACHE_WB, package, rcx=int(resume))
        self.module.interrupt_pending = False
        flushed = {self.keyid[tdr] for tdr, stage in self.stage.items() if stage == "blocked"}
        begun = self.interrupted.pop(package, set())
        keyids = begun if resume else flushed
        if not keyids:
            none = s.TDX_WBCACHE_RESUME_ERROR if resume else s.TDX_NO_HKID_READY_TO_WBCACHE
            assert status == none
        elif interrupt:
            assert status == s.TDX_INTERRUPTED_RESUMABLE
            self.interrupted[package] = keyids
        else:
            assert status == s.TDX_SUCCESS
            for tdr, packages in self.dirty.items():
                if self.keyid.get(tdr) in keyids:
                    packages.discard(package)

    @rule(tdr=tdrs)
    def free(self, tdr: int) -> None:
        status = self.call(leaf.TDH_MNG_KEY_FREEID, rcx=tdr)
        if tdr not in self.stage:
            assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX
        elif self.stage[tdr] != "blocked":
            assert status == s.TDX_LIFECYCLE_STATE_INCORRECT
        elif self.dirty[tdr]:
            assert status == s.TDX_WBCACHE_NOT_COMPLETE
        else:
            assert status == s.TDX_SUCCESS
            self.stage[tdr] = "torn down"
            del self.keyid[tdr]

    @rule(tdr=tdrs)
    def reclaim(self, tdr: int) -> None:
        status = self.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=tdr)
        if tdr not in self.stage:
            assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX
        elif self.stage[tdr] != "torn down":
            assert status == s.TDX_LIFECYCLE_STATE_INCORRECT
        else:
            assert status == s.TDX_SUCCESS
            del self.stage[tdr]

    @invariant()
    def consistent(self) -> None:
        assert ModuleView(self.module).check() == []


KeyMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
test_keys = KeyMachine.TestCase


def test_locks_that_another_cpu_holds() -> None:
    module = two_packages()
    keys = module.keys
    assert call(module, leaf.TDH_MNG_CREATE, rcx=TDRS[0], rdx=31)[0] == (
        s.TDX_OPERAND_INVALID | OPERAND_RDX
    )
    assert call(module, leaf.TDH_MNG_CREATE, rcx=TDRS[0], rdx=40)[0] == s.TDX_SUCCESS
    busy = s.TDX_OPERAND_BUSY
    keys.kot_lock.try_shared()
    for number, registers in (
        (leaf.TDH_MNG_CREATE, {"rcx": TDRS[1], "rdx": 41}),
        (leaf.TDH_MNG_VPFLUSHDONE, {"rcx": TDRS[0]}),
    ):
        assert call(module, number, **registers)[0] == busy | OPERAND_KOT
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB)[0] == s.TDX_NO_HKID_READY_TO_WBCACHE
    keys.kot_lock.release_shared()
    keys.kot_lock.try_exclusive()
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB)[0] == busy | OPERAND_KOT
    keys.kot_lock.release_exclusive()
    keys.write_back_lock.at(1).try_exclusive()
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB, 3)[0] == busy | OPERAND_WBCACHE
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB, 0)[0] == s.TDX_NO_HKID_READY_TO_WBCACHE
    keys.key_engines.at(1).try_exclusive()
    assert call(module, leaf.TDH_MNG_KEY_CONFIG, 3, rcx=TDRS[0])[0] == busy | OPERAND_KET
    assert call(module, leaf.TDH_MNG_KEY_CONFIG, 0, rcx=TDRS[0])[0] == s.TDX_SUCCESS


def test_sys_leaves_meet_the_global_lock() -> None:
    module = bare()
    module.global_lock.try_shared()
    assert call(module, leaf.TDH_SYS_INIT)[0] == s.TDX_SYS_BUSY
    module.global_lock.release_shared()
    assert call(module, leaf.TDH_SYS_INIT)[0] == s.TDX_SUCCESS
    module.global_lock.try_exclusive()
    for number in (leaf.TDH_SYS_LP_INIT, leaf.TDH_SYS_CONFIG, leaf.TDH_SYS_KEY_CONFIG):
        assert call(module, number)[0] == s.TDX_SYS_BUSY


def test_every_package_must_do_its_part() -> None:
    module = two_packages()
    tdr = TDRS[0]
    assert call(module, leaf.TDH_MNG_CREATE, rcx=tdr, rdx=40)[0] == s.TDX_SUCCESS
    assert call(module, leaf.TDH_MNG_KEY_CONFIG, 0, rcx=tdr)[0] == s.TDX_SUCCESS
    assert call(module, leaf.TDH_MNG_KEY_CONFIG, 1, rcx=tdr)[0] == s.TDX_KEY_CONFIGURED
    assert call(module, leaf.TDH_MNG_KEY_CONFIG, 2, rcx=tdr)[0] == s.TDX_SUCCESS
    assert call(module, leaf.TDH_MNG_KEY_CONFIG, 3, rcx=tdr)[0] == s.TDX_LIFECYCLE_STATE_INCORRECT
    assert call(module, leaf.TDH_MNG_VPFLUSHDONE, rcx=tdr)[0] == s.TDX_SUCCESS
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB, 1)[0] == s.TDX_SUCCESS
    assert call(module, leaf.TDH_MNG_KEY_FREEID, rcx=tdr)[0] == s.TDX_WBCACHE_NOT_COMPLETE
    module.interrupt_pending = True
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB, 3)[0] == s.TDX_INTERRUPTED_RESUMABLE
    module.interrupt_pending = False
    assert call(module, leaf.TDH_MNG_KEY_FREEID, rcx=tdr)[0] == s.TDX_WBCACHE_NOT_COMPLETE
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB, 0, rcx=1)[0] == s.TDX_WBCACHE_RESUME_ERROR
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB, 2, rcx=1)[0] == s.TDX_SUCCESS
    assert call(module, leaf.TDH_PHYMEM_CACHE_WB, rcx=2)[0] == (s.TDX_OPERAND_INVALID | OPERAND_RCX)
    assert call(module, leaf.TDH_MNG_KEY_FREEID, rcx=tdr)[0] == s.TDX_SUCCESS
    assert call(module, leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=tdr)[0] == s.TDX_SUCCESS
