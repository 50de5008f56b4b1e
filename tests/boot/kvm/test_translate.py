"""A scenario as the VMM's script: the same as `dpamt run` has its guests do."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from dpamt.boot.kvm import guest as words
from dpamt.boot.kvm.sweep import sweep_script
from dpamt.boot.kvm.tour import tour
from dpamt.boot.kvm.translate import translate
from dpamt.errors import InputError
from dpamt.run.guest_program import Instruction, LazyGuest
from dpamt.run.scenario import Scenario, load_scenario
from dpamt.run.story import run

TEXT = """
title = "test"
seed = {seed}
[host]
machine = "4GiB"
cpus = 2
[[side]]
name = "s"
pamt = "static"
[[td]]
name = "a"
memory = "12MiB"
vcpus = 2
share_2m = 0
image = "64KiB"
[[td]]
name = "b"
count = 2
memory = "6MiB"
share_2m = 0
[[phase]]
name = "one"
steps = [{{ do = "build" }}, {{ do = "fault", share = 0.7 }}]
[[phase]]
name = "two"
steps = [
    {{ do = "convert", share = 0.3, chunk = "32KiB", times = 2 }},
    {{ do = "balloon", share = 0.5 }},
    {{ do = "crash", td = "b", count = 1 }},
    {{ do = "build", td = "b" }},
]
"""
GIB = 1 << 30


def scenario(folder: Path, text: str = TEXT, seed: int = 1) -> Scenario:
    path = folder / "test.toml"
    path.write_text(text.format(seed=seed))
    return load_scenario(str(path))


def script_words(text: str) -> Counter[tuple[int, int, int]]:
    """(Operation, frame, pages) of all words in a script."""
    listed = [line.split()[3:] for line in text.splitlines() if line.startswith("words ")]
    return Counter(
        (one >> 56, one & ((1 << 36) - 1), one >> 36 & 0xFFFFF)
        for line in listed
        for one in map(int, line)
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_guests_do_what_they_do_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    done: list[Instruction] = []
    load = LazyGuest.load

    def remembered(guest: LazyGuest, work: Iterable[Instruction]) -> None:
        listed = list(work)
        done.extend(listed)
        load(guest, listed)

    monkeypatch.setattr(LazyGuest, "load", remembered)
    wanted = scenario(tmp_path, seed=seed)
    run(wanted)
    names = {0: words.ACCEPT, 1: words.ACCEPT_2M, 2: words.SHARE, 3: words.UNSHARE}
    of_run = Counter((names[kind], gpa >> 12, pages) for kind, gpa, pages in done)
    assert of_run
    assert script_words(translate(wanted, 2, 4 * GIB).text) == of_run


def test_phases_and_tds(tmp_path: Path) -> None:
    script = translate(scenario(tmp_path), 2, 4 * GIB)
    assert script.phases == ("module init", "one", "two", "end")
    assert script.tds == ("a (TD 1)", "b (TD 1)", "b (TD 2)", "b (TD 3)")
    lines = script.text.splitlines()
    assert [line for line in lines if line.startswith("phase ")] == [
        f"phase {number}" for number in (1, 2, 3, 4)
    ]
    assert [line for line in lines if line.split()[0] in ("kill", "close")] == [
        "kill 1",
        "close 0",
        "close 2",
        "close 3",
    ]
    punched = [line for line in lines if line.startswith("order ")]
    assert punched
    assert all(line.split()[2] == "2" and line.split()[4] == "512" for line in punched)


def test_what_kvm_cannot_do_is_refused_with_its_place(tmp_path: Path) -> None:
    wanted = scenario(tmp_path)
    with pytest.raises(InputError, match=r"a has 2 vCPUs; KVM gives .* --smp 2"):
        translate(wanted, 1, 4 * GIB)
    with pytest.raises(InputError, match=r"MiB of TDs on 520 MiB; .*--memory"):
        translate(wanted, 2, 520 << 20)
    split = TEXT.replace('"balloon", share = 0.5', '"split"')
    with pytest.raises(InputError, match=r"test\.toml:\d+: .*split: KVM of this kernel maps 4K"):
        translate(scenario(tmp_path, split), 2, 4 * GIB)
    many = TEXT.replace("count = 2", "count = 40")
    with pytest.raises(InputError, match="more than 32 TDs"):
        translate(scenario(tmp_path, many), 2, 16 * GIB)


def test_the_scripts_that_are_no_scenarios_name_their_tds_and_phases() -> None:
    for script in (tour(), sweep_script(3)):
        used = {
            int(line.split()[1])
            for line in script.text.splitlines()
            if " " in line and line.split()[0] in ("build", "words", "close", "kill", "order")
        }
        assert used == set(range(len(script.tds)))
        phases = [line for line in script.text.splitlines() if line.startswith("phase ")]
        assert phases == [f"phase {number}" for number in range(1, len(script.phases) + 1)]
