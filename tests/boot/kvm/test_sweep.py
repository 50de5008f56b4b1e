"""The sweep: which call fails in which life, and what is told of each."""

import pytest

from dpamt.abi.leaves import (
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_SEPT_ADD,
    TDH_MEM_TRACK,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_MNG_RD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_VP_ENTER,
    leaf_name,
)
from dpamt.abi.pages import PT_REG
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import STATUS_MASK, TDX_OPERAND_BUSY, TDX_OPERAND_INVALID
from dpamt.boot.console import Complaint
from dpamt.boot.kvm.reactions import Does
from dpamt.boot.kvm.seen import Seen
from dpamt.boot.kvm.sweep import Sweep, expected_warnings, inventory
from dpamt.boot.kvm.sweep_words import parse_swept
from dpamt.boot.kvm.take_back import take_back
from dpamt.errors import InputError
from dpamt.host.kvm.build import tdx_init_mem_region, tdx_td_finalize
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.module.module import TdxModule
from dpamt.report.kvm_sweep_text import sweep_json, sweep_text
from tests.host.rig import MIB, Host, booted

INVALID = "TDX_OPERAND_INVALID"


def made(
    sweep: Sweep, module: TdxModule, leaf: int, rcx: int = 0, rdx: int = 0, where: str = ""
) -> int:
    args = TdxModuleArgs()
    args.rcx, args.rdx = rcx, rdx
    return sweep.seamcall(module.processors[0], leaf, args, lambda: where) & STATUS_MASK


def swept(*lines: str, peace: tuple[int, ...] = ()) -> tuple[Sweep, TdxModule]:
    """A sweep that has seen a life of these calls in peace, and is in its first life behind it."""
    module = booted("merged").module
    sweep = Sweep(lines)
    assert sweep.next_life(module)
    for leaf in peace:
        made(sweep, module, leaf)
    sweep.next_life(module)
    return sweep, module


@pytest.fixture
def td() -> tuple[Host, Vm, Vcpu]:
    """A TD with one page, that may run."""
    host = booted("merged")
    vm = Vm(host.kernel, 4 * MIB)
    assert tdx_td_init(vm, host.cpu) == 0
    vcpu = tdx_vcpu_create(vm)
    assert isinstance(vcpu, Vcpu)
    assert tdx_vcpu_init(vm, vcpu, host.cpu) == 0
    assert tdx_init_mem_region(vm, vcpu, host.cpu, 0, 1, measure=True) == 0
    assert tdx_td_finalize(vm, host.cpu) == 0
    return host, vm, vcpu


def test_each_call_of_the_life_in_peace_fails_once() -> None:
    peace = (TDH_MNG_CREATE, TDH_MNG_ADDCX, TDH_MNG_ADDCX, TDH_MEM_TRACK)
    sweep, module = swept(INVALID, peace=peace)
    assert [made(sweep, module, TDH_MNG_RD) for _ in range(2)] == [
        module.processors[0].seamcall(TDH_MNG_RD, TdxModuleArgs()) & STATUS_MASK
    ] * 2
    failed = []
    while not sweep.done:
        before = len(sweep.lives)
        life = sweep.lives[-1]
        for leaf in peace:
            made(sweep, module, leaf, rcx=1 << 45)
        failed.append((life.leaf, life.nth, life.came, life.status))
        sweep.next_life(module)
        assert len(sweep.lives) - before == (not sweep.done)
    invalid = TDX_OPERAND_INVALID
    assert failed == [
        (TDH_MNG_CREATE, 1, True, invalid),
        (TDH_MNG_ADDCX, 1, True, invalid),
        (TDH_MNG_ADDCX, 2, True, invalid),
        (TDH_MEM_TRACK, 1, True, invalid),
    ]
    assert [life.line for life in sweep.lives][1] == f"TDH.MNG.ADDCX:answer={INVALID}:nth=1"


def test_a_call_that_does_not_come_is_told() -> None:
    sweep, module = swept(INVALID, peace=(TDH_MNG_CREATE,))
    made(sweep, module, TDH_MEM_TRACK)
    assert not sweep.next_life(module)
    assert [life.came for life in sweep.lives] == [False]


def test_busy_is_one_life_for_each_lock_that_the_call_takes(
    td: tuple[Host, Vm, Vcpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, vm, vcpu = td
    monkeypatch.setattr("dpamt.boot.kvm.sweep.take_back", lambda module: None)  # one TD for all
    sweep = Sweep(["TDH.MEM.*:busy"])
    sweep.next_life(host.module)
    tdr = vm.tdr << 12
    made(sweep, host.module, TDH_MEM_TRACK, tdr)
    made(sweep, host.module, TDH_VP_ENTER, vcpu.tdvpr << 12)  # not of this pattern
    sweep.next_life(host.module)
    lines = []
    while not sweep.done:
        assert made(sweep, host.module, TDH_MEM_TRACK, tdr) == TDX_OPERAND_BUSY
        assert made(sweep, host.module, TDH_MEM_TRACK, tdr) != TDX_OPERAND_BUSY
        life = sweep.lives[-1]
        lines.append(life.line)
        sweep.next_life(host.module)
        assert (life.tries, life.again) == (1, True)
    assert lines == [f"TDH.MEM.TRACK:busy={name}:nth=1" for name in ("RCX", "OP_STATE", "TD_EPOCH")]


@pytest.mark.parametrize("version", [0, 1])
def test_pages_for_l2_vms_are_operands_of_the_newer_call_alone(
    td: tuple[Host, Vm, Vcpu], monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """SEPT.ADD, version 0: R9 to R11 have whatever KVM left there, and no lock lies behind them."""
    host, vm, _ = td
    asked: list[str] = []

    def behind(_lp: object, _leaf: int, operand: str, _args: TdxModuleArgs) -> None:
        asked.append(operand)

    monkeypatch.setattr("dpamt.boot.kvm.sweep.lock_behind", behind)
    sweep = Sweep(["TDH.MEM.*:busy"])
    sweep.next_life(host.module)
    args = TdxModuleArgs()
    args.rdx = vm.tdr << 12
    sweep.seamcall(host.module.processors[0], TDH_MEM_SEPT_ADD | version << 16, args)
    assert {"R9", "R10", "R11"} & set(asked) == ({"R9", "R10", "R11"} if version else set())
    assert "R8" in asked


@pytest.mark.parametrize(
    ("calls", "tries", "again"),
    [
        ([(TDH_MEM_TRACK, 7), (TDH_MEM_TRACK, 7), (TDH_MEM_TRACK, 7)], 2, True),
        ([(TDH_MEM_TRACK, 7), (TDH_PHYMEM_PAMT_REMOVE, 1), (TDH_MEM_TRACK, 7)], 2, False),
        ([(TDH_MEM_TRACK, 7), (TDH_MEM_TRACK, 8), (TDH_MEM_TRACK, 7)], 1, False),
        ([(TDH_MEM_TRACK, 7), (TDH_MEM_RANGE_BLOCK, 7), (TDH_MEM_TRACK, 7)], 1, False),
        ([(TDH_MEM_TRACK, 7)], 1, False),
    ],
)
def test_tries_of_one_call_are_those_in_a_row(
    calls: list[tuple[int, int]], tries: int, again: bool
) -> None:
    sweep, module = swept(f"{INVALID}:row=2", peace=(TDH_MEM_TRACK,))
    for leaf, rcx in calls:
        made(sweep, module, leaf, rcx)
    life = sweep.lives[-1]
    sweep.next_life(module)
    assert (life.tries, life.again) == (tries, again)


def test_what_may_lose_pages_comes_last_and_the_last_remove_first() -> None:
    peace = (TDH_PHYMEM_PAMT_REMOVE, TDH_MEM_RANGE_BLOCK, TDH_PHYMEM_PAMT_REMOVE, TDH_MNG_RD)
    sweep, module = swept(INVALID, peace=peace)
    while not sweep.done:
        sweep.next_life(module)
    assert [(life.leaf, life.nth) for life in sweep.lives] == [
        (TDH_MNG_RD, 1),
        (TDH_PHYMEM_PAMT_REMOVE, 2),
        (TDH_PHYMEM_PAMT_REMOVE, 1),
        (TDH_MEM_RANGE_BLOCK, 1),
    ]


def test_what_a_life_leaves_is_named_and_taken_back(td: tuple[Host, Vm, Vcpu]) -> None:
    host, vm, _ = td
    used = inventory(host.module)
    assert used.pages
    assert used.pairs
    sweep = Sweep([INVALID])
    sweep.next_life(None)
    made(sweep, host.module, TDH_MNG_CREATE)
    sweep.next_life(None)
    made(sweep, host.module, TDH_MNG_CREATE)
    sweep.next_life(host.module, lambda: {3: 2})
    (life,) = sweep.lives
    assert [page for page, _ in life.kept] == [page << 12 for page in used.pages]
    assert life.pairs == tuple(sorted(region << 21 for region in used.pairs))
    assert life.tds == 1
    assert life.counts == {3 << 21: 2}
    after = inventory(host.module)
    assert after.pages == {}
    assert after.pairs == used.pairs  # the kernel counts them
    assert vm.tdr in used.pages


def test_a_td_that_runs_is_taken_back_too(td: tuple[Host, Vm, Vcpu]) -> None:
    host, _, vcpu = td
    args = TdxModuleArgs()
    args.rcx = vcpu.tdvpr << 12
    host.module.processors[1].seamcall(TDH_VP_ENTER, args)  # associated with this CPU
    take_back(host.module)
    assert inventory(host.module).pages == {}


def lived(line: str, status: int, **more: object) -> Sweep:
    """A sweep of one life whose call was made, and failed."""
    leaf = next(n for n in range(512) if line.startswith(f"{leaf_name(n)}:"))
    sweep, module = swept(line, peace=(leaf,))
    made(sweep, module, leaf)
    life = sweep.lives[-1]
    sweep.next_life(module)
    life.status = status
    for name, value in more.items():
        setattr(life, name, value)
    return sweep


CONSOLE = ["dpamt: phase 1", "dpamt: phase 2"]


def test_a_kernel_that_does_as_its_source_says() -> None:
    sweep = lived(f"TDH.MNG.CREATE:{INVALID}", TDX_OPERAND_INVALID)
    lines = ["kvm_intel: SEAMCALL TDH_MNG_CREATE failed: 0x8000020000000000", "dpamt: td 0 bugged"]
    told = ["dpamt: at TDX_INIT_VM", "dpamt: td 0 error 5 hw 0x0"]
    sweep.finish([*CONSOLE, *lines, *told, "dpamt: phase 3"], ("the TD",))
    (life,) = sweep.lives
    assert life.expected is not None
    assert life.expected.does is Does.BUGS
    assert life.seen == Seen(["EIO"], [], bugged=True)
    assert life.reactions == [
        "the TD was not built: TDX_INIT_VM: EIO",
        "SEAMCALL TDH_MNG_CREATE failed",
    ]
    assert sweep.findings() == []


@pytest.mark.parametrize(
    ("line", "status", "more", "console", "told"),
    [
        ("TDH.MNG.CREATE", TDX_OPERAND_INVALID, {}, [], "the VMM got no error, the VM not bugged"),
        (
            "TDH.MNG.CREATE",
            TDX_OPERAND_INVALID,
            {"kept": ((4096, 1),)},
            ["dpamt: td 0 bugged", "dpamt: td 0 error 5 hw 0x0"],
            "something was not given back",
        ),
        ("TDH.MEM.PAGE.AUG", TDX_OPERAND_BUSY, {}, [], "TDH.MEM.PAGE.AUG was not made again"),
        (
            "TDH.MEM.PAGE.AUG",
            TDX_OPERAND_BUSY,
            {"again": True},
            ["dpamt: td 0 stuck"],
            "KVM did not come back until a signal came",
        ),
        ("TDH.MNG.RD", TDX_OPERAND_BUSY, {}, ["dpamt: td 0 bugged"], "the VM is bugged"),
        ("TDH.MNG.RD", TDX_OPERAND_BUSY, {"counts": {0: 1}}, [], "not given back"),
        ("TDH.MEM.TRACK", TDX_OPERAND_INVALID, {"at_the_end": True}, [], "everything was given"),
        ("TDH.MNG.KEY.FREEID", TDX_OPERAND_BUSY, {}, [], "everything was given back"),
        ("TDH.VP.ENTER", TDX_OPERAND_INVALID, {}, [], "KVM_RUN did not end by it"),
        ("TDH.PHYMEM.PAMT.ADD", TDX_OPERAND_INVALID, {}, [], "where ENOMEM is due"),
        (
            "TDH.PHYMEM.PAMT.ADD",
            TDX_OPERAND_INVALID,
            {"where": "tdx_sept_set_private_spte"},
            ["dpamt: td 0 order 2 error 12"],
            "the VMM got ENOMEM, where no error is due",
        ),
    ],
)
def test_a_kernel_that_does_not(
    line: str, status: int, more: dict[str, object], console: list[str], told: str
) -> None:
    sweep = lived(f"{line}:{INVALID}", status, **more)
    sweep.finish([*CONSOLE, *console, "dpamt: phase 3"], ("the TD",))
    (finding,) = sweep.findings()
    assert told in finding
    assert f"first {line}:answer={INVALID}:nth=1)" in finding


def test_a_report_names_what_is_left_and_puts_lives_that_are_alike_together() -> None:
    sweep, module = swept(INVALID, peace=(TDH_MNG_ADDCX, TDH_MNG_ADDCX, TDH_MEM_TRACK))
    while not sweep.done:
        for leaf in (TDH_MNG_ADDCX, TDH_MNG_ADDCX, TDH_MEM_TRACK):
            made(sweep, module, leaf)
        sweep.next_life(module)
    lost = sweep.lives[-1]
    lost.kept = tuple((page << 12, PT_REG) for page in range(1, 9))
    lost.pairs, lost.counts, lost.freed = (0x200000,), {0x400000: 3}, (0x3000,)
    bugged = ["dpamt: td 0 bugged", "dpamt: td 0 vcpu 0 ended exit 0 error 5 detail 0x0"]
    lines = [line for number in (3, 4, 5) for line in (*bugged, f"dpamt: phase {number}")]
    sweep.finish([*CONSOLE, *lines], ("the TD",))
    assert sweep.findings() == []
    text = " ".join(" ".join(sweep_text(sweep)).split())
    assert f"TDH.MNG.ADDCX:answer={INVALID}, calls 1-2: bugs the VM, and gives all back" in text
    assert "pages stay with the module (tdx_track)" in text
    assert (
        "NOT GIVEN BACK: guest 0x1000, guest 0x2000, guest 0x3000, guest 0x4000, guest 0x5000, "
        "guest 0x6000, 2 more pages, the page pair of 0x200000, FREED while the module has it: "
        "0x3000; COUNTS TOO HIGH: that of 0x400000 by 3"
    ) in text
    assert "3 lives; in 3 the call came; KVM did as its source says in 3 of 3; after 1 of" in text
    assert "NOT ALL" not in text
    first, *_, last = sweep_json(sweep)
    assert first["inject"] == f"TDH.MNG.ADDCX:answer={INVALID}:nth=1"
    assert (first["source_function"], first["contradiction"]) == ("__tdx_td_init", None)
    assert last["pages_left"][0] == {"address": "0x1000", "kind": "guest"}
    assert last["counts_left"] == [{"region": "0x400000", "count": 3}]


def test_a_report_says_what_is_not_as_the_source_says_and_what_did_not_come() -> None:
    sweep, module = swept(INVALID, peace=(TDH_MNG_CREATE, TDH_MNG_ADDCX))
    made(sweep, module, TDH_MNG_CREATE)
    sweep.next_life(module)
    sweep.finish([*CONSOLE, "dpamt: phase 3", "dpamt: phase 4"], ("the TD",))
    text = " ".join(" ".join(sweep_text(sweep)).split())
    assert "call 1: NOT: bugs the VM, and gives all back (__tdx_td_init); the VMM got no" in text
    assert "call 1: not made in this life" in text
    assert "in 1 the call came; KVM did as its source says in 0 of 1" in text
    assert "NOT ALL" in text


def test_a_life_that_met_a_lost_page_is_not_judged() -> None:
    sweep = lived(f"TDH.MNG.CREATE:{INVALID}", TDX_OPERAND_INVALID, met=4096)
    sweep.finish([*CONSOLE, "dpamt: phase 3"], ("the TD",))
    assert sweep.findings() == []


def test_the_kernels_own_words_about_a_failed_seamcall_are_expected_and_no_others() -> None:
    own = Complaint("WARNING", "vmx/tdx.c:1702 at tdx_sept_set_private_spte+0x793/0x7e8", ())
    core = Complaint("WARNING", "arch/x86/virt/vmx/tdx/tdx.c:2164 at tdx_pamt_get+0x1/0x2", ())
    other = Complaint("WARNING", "vmx/main.c:498 at vt_cache_reg+0x10/0x18", ())
    lock = Complaint("lockdep", "possible circular locking dependency detected", ())
    assert expected_warnings([own, core, other, lock]) == [own, core]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("TDX_OPERAND_BUZY", "did you mean TDX_OPERAND_BUSY"),
        ("busy=KOT:row=0", "expected [LEAF:]WHAT[:row=N]"),
        ("busy=NOWHERE", "these leaves can meet busy="),
        ("TDH.MNG.RD:busy=KOT", "these leaves can meet busy=OP_STATE, busy=RCX"),
        ("TDH.MEM.*:no-entropy", "no such leaf can meet no-entropy"),
        ("TDH.NO.SUCH:busy", "expected a name such as TDH.MEM.PAGE.AUG"),
        ("TDH.MEM.*", "expected [LEAF:]WHAT[:row=N]"),
        ("", "expected [LEAF:]WHAT[:row=N]"),
        ("busy\n", "one line of plain text"),
    ],
)
def test_what_no_sweep_can_be_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_swept(text)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
