"""A boot from start to end without a machine: requests that a test makes, a console that it writes.

The module is the real one.  A guest here is a list of what its CPUs do, one batch at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.abi.leaves import TDH_SYS_INIT, TDH_SYS_LP_INIT, TDH_SYS_RD
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import TDX_SUCCESS
from dpamt.boot import answering, session
from dpamt.boot.delays import parse_delay
from dpamt.boot.exerciser import parse_exercise
from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.hold import parse_hold
from dpamt.boot.interventions import RENDEZVOUS_SITE
from dpamt.boot.outcome import Booted, BootOptions
from dpamt.boot.request import Answer, Request
from dpamt.errors import Finding
from dpamt.module.fatal import ModuleFatal
from dpamt.platform.size import machine_from_size

MACHINE = machine_from_size("1GiB")
STARTED = "virt/tdx: TDX-Module initialized"
RESTART = "reboot: Restarting system"


class Clock:
    """Time passes when somebody waits, and not otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Console:
    def __init__(self, _serial: Any) -> None:
        self.printed: list[str] = []
        self.last = 0.0

    def say(self, line: str) -> None:
        self.printed.append(line)
        self.last = 1e9

    def finish(self) -> None:
        pass

    def text(self) -> str:
        return "\n".join(self.printed)

    def says(self, what: bytes) -> bool:
        return what in self.text().encode()

    def lines(self) -> list[str]:
        return list(self.printed)


class Guest:
    """QEMU, console and transport in one; ``script`` gives what comes at each wait."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        path = folder / "memory"
        with path.open("wb") as file:
            file.truncate(1 << 30)
        self.memory = GuestMemory([(path, 1 << 30)])
        self.serial = None
        self.clock = clock
        self.console = Console(None)
        self.script: Iterator[list[Request]] = iter(())
        self.answers: list[tuple[float, int, int]] = []
        """(Time, CPU, status)."""
        self.asked: list[str] = []
        self.broken = ""
        self.setup: Any = None
        self.closed = False
        registers = [{"rip": 0x1000 + cpu, "rsp": 0x2000} for cpu in range(2)]
        self.monitor = SimpleNamespace(run=self.asked.append, registers=lambda: registers)

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_: Any) -> None:
        self.asked.append("gone")

    def socket(self, _name: str) -> None:
        return None

    def has_ended(self) -> bool:
        return self.closed

    def failure(self) -> str:
        return self.broken

    def code_log(self) -> bytes:
        return b""

    def wait(self, seconds: float) -> list[Request]:
        self.clock.now += seconds
        for requests in self.script:
            return requests
        self.closed = True
        return []

    def answer(self, request: Request, answer: Answer) -> None:
        self.answers.append((self.clock.now, request.cpu, answer.registers.get("rax", 0)))


def call(cpu: int, leaf: int, **registers: int) -> Request:
    plain = dict.fromkeys(REGISTER_NAMES, 0)
    return Request(cpu, 0, {**plain, **registers, "rax": leaf, "rsp": 0x3000, "rip": 0x1000})


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    clock = Clock()
    made = Guest(tmp_path, clock)

    def qemu(setup: Any) -> Guest:
        made.setup = setup
        return made

    monkeypatch.setattr(session, "Qemu", qemu)
    monkeypatch.setattr(session, "Console", lambda _: made.console)
    monkeypatch.setattr(session, "Mailbox", lambda *_: made)
    monkeypatch.setattr(session, "machine_of", lambda *_: MACHINE)
    monkeypatch.setattr(session, "KernelMemory", lambda *_: None)
    monkeypatch.setattr(session, "monotonic", clock)
    monkeypatch.setattr(session, "callers", lambda *_: [0x77])
    monkeypatch.setattr(session, "LoadedCode", lambda *_: SimpleNamespace(name_of=lambda _: ""))
    monkeypatch.setattr(session, "pamt_areas", lambda *_: [])
    monkeypatch.setattr(answering, "callers", lambda *_, most: [])
    return made


def run(
    guest: Guest,
    *batches: Any,
    prepare: Callable[[Any], None] = lambda _: None,
    **options: Any,
) -> Booted:
    """The batches in their order; a text among them is printed, a function is called."""

    def script() -> Iterator[list[Request]]:
        for batch in batches:
            if isinstance(batch, str):
                guest.console.say(batch)
                yield []
            elif callable(batch):
                batch()
                yield []
            else:
                yield batch if isinstance(batch, list) else [batch]

    guest.script = script()
    image: Any = SimpleNamespace(
        symbol=lambda _: None,
        name_of=lambda at: f"f{at:x}",
        is_text=lambda at: at == 0x1000,
        path=Path("vmlinux"),
    )
    nothing: Any = None
    with ExitStack() as stack:
        made = session._Session(
            BootOptions(Path("vmlinux"), **options), image, [], [], stack, None, nothing, None
        )
        prepare(made)
        return made.run()


def test_a_guest_that_restarts(guest: Guest) -> None:
    result = run(guest, call(0, TDH_SYS_INIT), STARTED, call(1, TDH_SYS_RD), RESTART)
    assert (result.ended, result.findings) == ("reboot", [])
    assert result.console == [STARTED, RESTART]
    assert result.initialized is not None
    assert 0 < result.initialized < result.seconds
    assert result.clean
    assert [cpu for _, cpu, _ in guest.answers] == [0, 1]
    assert guest.answers[0][2] == TDX_SUCCESS
    assert [(one.cpu, one.leaf) for one in result.calls] == [(0, TDH_SYS_INIT), (1, TDH_SYS_RD)]
    assert guest.asked[-1] == "gone"


def test_what_the_guest_is_given(guest: Guest) -> None:
    run(guest, RESTART, cpus=3, memory=512 << 20, nodes=2, initrd=Path("/ram"), append="x")
    setup = guest.setup
    assert (setup.cpus, setup.memory, setup.nodes, setup.initrd) == (3, 512 << 20, 2, Path("/ram"))
    assert setup.kernel == Path("vmlinux")
    assert setup.command_line.endswith(" x")
    assert (setup.stopped, setup.gdb, setup.code_log) == (False, False, None)
    run(guest, RESTART, kernel=Path("/bz"))
    assert guest.setup.kernel == Path("/bz")
    assert guest.setup.initrd.name == "initrd"


def test_a_guest_that_is_reset(guest: Guest) -> None:
    result = run(guest, call(0, TDH_SYS_INIT))
    assert result.ended == "reset"
    assert result.findings == ["the guest was reset without asking for it (a triple fault?)"]


def test_qemu_that_fails(guest: Guest) -> None:
    guest.broken = "no memory"
    with pytest.raises(Finding, match="QEMU failed: no memory"):
        run(guest, RESTART)


def test_the_time_is_over(guest: Guest) -> None:
    """Half of it printed nothing; where each CPU was is shown."""
    result = run(guest, "hello", " ", *[[]] * 400, timeout=3.0)
    assert result.ended == "timeout"
    assert 3.0 < result.seconds < 3.2
    assert result.findings == ["not at its end after 3 s; the last line: 'hello'"]
    assert result.stacks == ["CPU 0: f1000 < f77", "CPU 1: outside the kernel's code < f77"]
    assert guest.asked[0] == "stop"
    guest.console.printed.clear()
    silent = run(guest, *[[]] * 400, timeout=1.0)
    assert "nothing printed yet" in silent.findings[0]


def test_a_call_that_is_delayed_lets_others_pass(guest: Guest) -> None:
    rule = parse_delay("TDH.SYS.INIT:delay=500")
    result = run(
        guest, call(0, TDH_SYS_INIT), call(1, TDH_SYS_RD), *[[]] * 40, RESTART, delays=(rule,)
    )
    (first, *_), (second, *_) = guest.answers[0], guest.answers[1]
    assert [cpu for _, cpu, _ in guest.answers] == [1, 0]
    assert first < second
    asked = next(one.asked for one in result.calls if one.leaf == TDH_SYS_INIT)
    assert 0.5 <= second - 100.0 - asked < 0.6
    assert result.injected == [("TDH.SYS.INIT:delay=500", 1, 1)]


def test_delayed_calls_come_in_the_order_of_their_time(guest: Guest) -> None:
    rules = (parse_delay("TDH.SYS.INIT:delay=400"), parse_delay("TDH.SYS.RD:delay=200"))
    run(guest, [call(0, TDH_SYS_INIT), call(1, TDH_SYS_RD)], *[[]] * 40, RESTART, delays=rules)
    assert [cpu for _, cpu, _ in guest.answers] == [1, 0]
    times = [when for when, *_ in guest.answers]
    assert times[1] - times[0] == pytest.approx(0.2, abs=0.05)


def test_a_cpu_is_held_until_another_has_made_its_calls(guest: Guest) -> None:
    hold = (parse_hold("0@TDH.SYS.INIT:until=1:2", 2),)
    result = run(
        guest, call(1, TDH_SYS_RD), call(0, TDH_SYS_INIT), [], call(1, TDH_SYS_RD),
        call(1, TDH_SYS_RD), RESTART, hold=hold,
    )  # fmt: skip
    assert [cpu for _, cpu, _ in guest.answers] == [1, 1, 1, 0]
    assert (result.held, result.findings) == ([1], [])


def test_a_hold_that_nobody_ends(guest: Guest) -> None:
    hold = (parse_hold("0@TDH.SYS.INIT:until=1:2", 2), parse_hold("1@TDH.VP.ENTER:until=0:1", 2))
    result = run(guest, call(0, TDH_SYS_INIT), call(1, TDH_SYS_RD), *[[]] * 300, RESTART, hold=hold)
    assert result.findings == [
        "hold 0@TDH.SYS.INIT:until=1:2: CPU 1 did 1 of 2 calls within 10 s",
        "hold 1@TDH.VP.ENTER:until=0:1: no CPU came there",
    ]
    when = next(when for when, cpu, _ in guest.answers if cpu == 0)
    assert 10.0 <= when - 100.0 < 10.3
    assert result.held == [1, 0]


def test_a_rendezvous_is_let_go(guest: Guest) -> None:
    hold = (parse_hold("0@put/lock:until=1:1", 2),)
    met = Request(0, RENDEZVOUS_SITE, call(0, 0).registers)
    other = Request(0, RENDEZVOUS_SITE + 5, call(0, 0).registers)  # none of ours
    result = run(guest, other, met, [], call(1, TDH_SYS_RD), RESTART, hold=hold)
    assert [cpu for _, cpu, _ in guest.answers] == [0, 1, 0]
    assert result.held == [1]
    assert [one.leaf for one in result.calls] == [TDH_SYS_RD]


def stopped(guest: Guest, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> Booted:
    monkeypatch.setattr(answering.Answering, "answer", answer)
    return run(guest, [call(1, TDH_SYS_LP_INIT), call(0, TDH_SYS_RD)], RESTART)


def test_what_is_wrong_stops_the_machine(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> Any:
        return Answer({"rax": 0}), ["a page is lost", "another"]

    result = stopped(guest, monkeypatch, wrong)
    assert result.ended == "stopped"
    assert result.findings == ["CPU 1 in TDH.SYS.LP.INIT: a page is lost; another"]
    assert result.stacks[1] == "CPU 1: TDH.SYS.LP.INIT < f77"
    assert guest.answers == []


def test_a_module_that_shuts_down_stops_the_machine(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fatal(*_: Any) -> Any:
        raise ModuleFatal("it has shut down")

    result = stopped(guest, monkeypatch, fatal)
    (told,) = result.findings
    assert told.startswith("CPU 1 in TDH.SYS.LP.INIT: TDX module fatal error: it has shut down")


@pytest.mark.parametrize(
    ("is_same", "departure", "found"),
    [
        (True, "", []),
        (
            False,
            "CPU 0 did less",
            ["replay: 2 of 3 steps as in the counterexample: CPU 0 did less"],
        ),
        (False, "", ["replay: 2 of 3 steps as in the counterexample: it ended before"]),
    ],
)
def test_a_schedule_that_was_followed(
    guest: Guest, is_same: bool, departure: str, found: list[str]
) -> None:
    def follows(made: Any) -> None:
        made._result.followed = SimpleNamespace(
            is_same=is_same, departure=departure, done=[1, 2], points=[1, 2, 3]
        )

    assert run(guest, RESTART, prepare=follows).findings == found


def test_a_core_is_written_before_its_call_or_at_the_end(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all CPUs stopped; a call that never comes is a finding."""
    written: list[int] = []

    def core(made: Any) -> None:
        def write_core(*_: Any) -> int:
            written.append(made._answering.total)
            return 4096

        made._core = object()
        monkeypatch.setattr(session, "write_core", write_core)

    calls = [call(0, TDH_SYS_INIT), call(0, TDH_SYS_RD), call(1, TDH_SYS_RD)]
    result = run(guest, *calls, RESTART, prepare=core, core_at=2)
    assert (written, result.core, result.findings) == ([1], (4096, 1), [])
    assert guest.asked[:2] == ["stop", "cont"]
    guest.closed = False
    result = run(guest, *calls, RESTART, prepare=core)
    assert (written[1:], result.core) == ([3], (4096, 3))
    guest.closed = False
    result = run(guest, *calls, RESTART, prepare=core, core_at=9)
    assert result.core == (4096, 3)
    assert result.findings == ["core: SEAMCALL 9 was never made (3 were); the core is of the end"]


def test_progress_is_told_now_and_then(guest: Guest) -> None:
    told: list[tuple[str, int]] = []

    def watched(made: Any) -> None:
        made._progress = lambda *what: told.append(what)

    run(guest, "x" * 100, call(0, TDH_SYS_INIT), *[[]] * 20, RESTART, prepare=watched)
    assert 4 <= len(told) <= 6
    assert told[-1] == ("x" * 70, 1)


def test_the_exerciser_is_judged(guest: Guest) -> None:
    result = run(guest, RESTART, exercise=None)
    assert "exerciser" not in " ".join(result.findings)
    assert result.told is None
    exercise = parse_exercise("life")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "build_initrd", lambda *_: Path("/made"))
        result = run(guest, RESTART, exercise=exercise)
    assert guest.setup.initrd == Path("/made")
    assert result.findings == ["the exerciser did not come to its end"]
    assert result.told is not None
