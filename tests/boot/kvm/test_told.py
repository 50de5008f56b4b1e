"""The VMM's lines on the console, and what is judged of them."""

from collections import Counter

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_REMOVE
from dpamt.abi.status import TDX_NO_PAMT_PAGE_PAIR
from dpamt.boot.kvm.judge import guests_met, wrong_with_kvm
from dpamt.boot.kvm.told import read_vmm

NAMES = ("db", "web")
GOOD = ["dpamt: kvm loaded", "dpamt: td 0 vcpu 1 exit 3 times 8", "dpamt: end passed 0 failed 0"]


def test_a_run_as_it_should_be() -> None:
    told = read_vmm(["Run /init as init process", *GOOD], NAMES)
    assert told.loaded
    assert told.ended
    assert told.troubles == []
    assert told.exits == {(0, 3): 8}


def test_each_trouble_is_a_sentence() -> None:
    lines = [
        "dpamt: kvm loaded",
        "dpamt: td 1 failed ",
        "dpamt: at TDX_INIT_VM",
        "dpamt: td 1 error 22 hw 0xc000010000000000",
        "dpamt: td 1 not built",
        "dpamt: td 0 order 2 error 5",
        "dpamt: td 0 vcpu 0 ended exit 6 error 5 detail 0x0",
        "dpamt: td 0 vcpu 1 ended exit 17 error 0 detail 0x4d",
        "dpamt: td 0 vcpu 2 ended exit 24 error 0 detail 0x7",
        "dpamt: td 0 died status 0xb",
        "dpamt: td 0 tour wanted 22 got 0 in:",
        "dpamt: at TDX_INIT_VM twice",
        "dpamt: end passed 3 failed 1",
    ]
    told = read_vmm(lines, NAMES)
    assert told.troubles == [
        "web was not built: TDX_INIT_VM: EINVAL, TDX status 0xc000010000000000",
        "db: the VMM's order 2 failed: EIO",
        "db, vCPU 0: KVM_RUN failed: EIO",
        "db, vCPU 1: KVM_RUN ended by KVM_EXIT_INTERNAL_ERROR, 0x4d",
        "db: its VMM died, wait status 0xb",
        "db: 0, where EINVAL is due, for TDX_INIT_VM twice",
    ]
    assert told.passed_over == 3


def test_modules_that_are_not_loaded_and_a_vmm_that_is_gone() -> None:
    refused = ["dpamt: not loaded:", "/kvm.ko", "dpamt: error 8"]
    assert read_vmm(refused, NAMES).troubles == ["a module of KVM's was not loaded: ENOEXEC"]
    assert read_vmm(["dpamt: kvm loaded"], NAMES).troubles == ["the VMM did not come to its end"]


def test_what_was_injected_is_no_finding_of_the_vmm() -> None:
    told = read_vmm(["dpamt: td 0 order 2 error 5", *GOOD], NAMES)
    refused = Counter({("MapGPA", "0x1"): 2})
    counts = Counter({(TDH_PHYMEM_PAMT_REMOVE, TDX_NO_PAMT_PAGE_PAIR): 1})
    assert guests_met(refused) == ["MapGPA was answered 0x1, 2 times"]
    assert wrong_with_kvm(told, refused, counts, injects=True, dictates=True) == []
    # Rules that make the module busy are no excuse for these.
    (busy,) = wrong_with_kvm(told, refused, counts, injects=True)
    assert busy.startswith("bad-remove: ")
    found = wrong_with_kvm(told, refused, counts, injects=False)
    assert [text.partition(":")[0] for text in found] == ["the VMM", "a guest", "bad-remove"]
