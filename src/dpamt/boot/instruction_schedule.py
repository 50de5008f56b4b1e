"""A counterexample in machine code, made to happen at the same instructions on real vCPUs.

Each step of it on a word that CPUs share stands at an instruction of the image; so a breakpoint
stands there, and a vCPU that comes to it waits for its turn.  One vCPU goes at a time, from its
step to its next one; behind its last one it stands until all have made theirs.  The word is looked
at in the guest's memory before and after each instruction and held against the counterexample.

What cannot be made to happen: a store that waits in its CPU's store buffer while that CPU loads.
QEMU's translated code makes a store when it comes to it, so such a schedule is left at that load.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK
from dpamt.boot.request import Request
from dpamt.boot.schedule import CHOICE, Follower, Point, SeenWord, is_step, points_of
from dpamt.boot.stack import KernelMemory
from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.instructions import READ, WRITE, Instructions, Operand

_MARK: Final = "mark"
"""The method of the step with which a SEAMCALL begins."""
_CALL: Final = "call"
_PUT: Final = "tdx_pamt_put"
_STORE: Final = "store"
_VALUED: Final = frozenset({"load", "fetch_add", "xchg", "cmpxchg", "set_bits", "clear_bits"})
"""Methods of words whose result is the value before them."""
_LOOKED_AT: Final = _VALUED | {
    *(_STORE, "lock", "unlock", "trylock", "lock_irqsave", "unlock_irqrestore"),
    *("lock_bh", "unlock_bh"),
}
"""Methods after which the word's value is held against the counterexample."""
_LOOKS: Final = frozenset({"is_locked", "is_write_locked"})
_SPINLOCKS: Final = "_raw_spin_"
_SPINLOCK_BYTES: Final = 4
"""Of the word of a spinlock, which begins its structure: 1 while it is held and nobody waits for it
(Linux 7.3.4 include/asm-generic/qspinlock_types.h)."""
_SPINLOCK_VALUES: Final = {"free": 0, "held": 1}
_MASK: Final = (1 << 64) - 1


def has_instructions(found: Mapping[str, Any] | None) -> bool:
    """Whether there is a counterexample (its JSON form), and it is one of machine code."""
    return found is not None and any(step.get("address") for step in found["steps"])


def instruction_points(found: Mapping[str, Any]) -> list[Point]:
    """The steps of a counterexample that an instruction stands for, and its SEAMCALLs.

    A SEAMCALL stands where it is called, and again where it ends.  Raises InputError.
    """
    ends = {point.at: point for point in points_of(found, announced=False)}
    points = []
    try:
        for step in found["steps"]:
            cpu, at, method = int(step["cpu"]), int(step["at"]), step["method"]
            address = int(step["address"])
            if at in ends:
                points.append(ends[at])
            elif address and method != CHOICE:
                result, site = step["result"], _site(step)
                word = step["word"].removeprefix("host.").removeprefix("image.")
                word = word.removesuffix("[0x0]")  # as `dpamt verify` shows it
                expected = int(result) if method in _VALUED and result is not None else None
                what = _CALL if method == _MARK else method
                after = _number(step["value"]) if method in _LOOKED_AT else None
                points.append(Point(cpu, what, -1, expected, at, address, site, word, after))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(f"counterexample: steps: {what}; expected the form of --save") from None
    return [point for n, point in enumerate(points) if not _is_part(point, points[n + 1 :])]


def _is_part(point: Point, later: list[Point]) -> bool:
    """Whether a step is the first half of one call: the look at a lock in a trylock."""
    if point.what not in _LOOKS:
        return False
    following = next((one for one in later if one.cpu == point.cpu), None)
    return following is not None and following.address == point.address


def _site(step: Mapping[str, Any]) -> str:
    where = f"{step['file']}:{step['line']}" if step["line"] else step["file"]
    return f"{step['function']} {where}"


def _number(text: str) -> int | None:
    if text in _SPINLOCK_VALUES:
        return _SPINLOCK_VALUES[text]
    try:
        return int(text, 0)
    except ValueError:
        return None


class Breakpoints(Protocol):
    """What single vCPUs stop at (:mod:`dpamt.boot.breakpoints`)."""

    is_armed: bool

    def arm(self, addresses: Iterable[int]) -> None:
        """Put a breakpoint at each address."""

    def disarm(self) -> None:
        """Take them away; whoever was held there runs."""


class GuestWords:
    """The words that instructions of the kernel touch, in the guest's memory."""

    def __init__(self, image: ElfImage, kernel: KernelMemory) -> None:
        self._image = image
        self._instructions = Instructions(image)
        self._kernel = kernel
        symbol = image.symbols.get(_PUT)
        self.put = symbol.address if symbol is not None else 0
        """Where put begins."""

    def site(self, address: int) -> str:
        """``function+0x12 instruction``."""
        instruction = self._instructions.at(address)
        text = instruction.text
        if instruction.target >= 0:
            text = f"{instruction.mnemonic} {self._image.name_of(instruction.target)}"
        return f"{self._image.name_of(address)} {text}"

    def behind(self, address: int) -> int:
        """Where the instruction ends: of a call, where it returns to."""
        return address + self._instructions.at(address).size

    def access(self, address: int) -> str:
        """What the instruction does to memory (:mod:`dpamt.kernel_image.instructions`); of one that
        touches none, empty."""
        operand = self._operand(address)
        return operand.access if operand is not None else ""

    def word_at(self, registers: Mapping[str, int]) -> tuple[int, int] | None:
        """(virtual address, bytes) of the word that the instruction at RIP touches; of a spinlock
        that is called for, of the lock."""
        target = self._instructions.at(registers["rip"]).target
        if target >= 0 and self._image.name_of(target).startswith(_SPINLOCKS):
            return registers["rdi"], _SPINLOCK_BYTES
        operand = self._operand(registers["rip"])
        if operand is None or operand.segment:
            return None
        address = operand.displacement
        for register, scale in ((operand.base, 1), (operand.index, operand.scale)):
            if register and register not in registers:
                return None
            address += registers[register] * scale if register else 0
        return address & _MASK, operand.size

    def _operand(self, address: int) -> Operand | None:
        instruction = self._instructions.at(address)
        is_access = not (instruction.is_call or instruction.is_jump)
        return instruction.memory[0] if is_access and instruction.memory else None

    def value(self, address: int, size: int) -> int | None:
        """The signed value of ``size`` bytes there; None where the guest has no memory."""
        word = self._kernel.read64(address & -8)
        if word is None or address % size:
            return None
        value = word >> 8 * (address & 7) & (1 << 8 * size) - 1
        return value - (1 << 8 * size) if value >> 8 * size - 1 else value


class InstructionFollower(Follower):
    """Lets vCPUs go from instruction to instruction in the order of a schedule.

    ``breakpoints`` stand from the schedule's beginning to its end.
    """

    _where = "on the vCPU"

    def __init__(
        self, found: Mapping[str, Any], design: str, words: GuestWords, breakpoints: Breakpoints
    ) -> None:
        super().__init__(found, design, instruction_points(found))
        self._words = words
        self._breakpoints = breakpoints
        self._behind = _behind_the_last(self.result.points, words)
        self._known: dict[str, int] = {}
        """By name of a word in the counterexample: where it is in the guest."""
        self._touched: tuple[int, int, int] | None = None
        """Of the step that was let go: address and bytes of its word, and the value before it."""

    @property
    def addresses(self) -> list[int]:
        """Where breakpoints are to stand."""
        told = {point.address for point in self.result.points if point.address}
        return sorted(told | self._behind)

    def take(self, request: Request) -> list[Request]:
        """A request came: those to answer now, in order."""
        let_go = super().take(request)
        point = self._awaited
        if point is not None and not self._free and point.address:
            for one in let_go:
                if one.cpu == point.cpu and one.is_breakpoint:
                    let_go = [*let_go, *self._touch(point, one)]
        self._steer()
        return let_go

    def give_up(self, why: str) -> list[Request]:
        """Let everybody go; the schedule ends here."""
        let_go = super().give_up(why)
        self._steer()
        return let_go

    def _steer(self) -> None:
        if self._free:
            self._breakpoints.disarm()
        elif self.has_begun and not self._breakpoints.is_armed:
            self._breakpoints.arm(self.addresses)

    def _touch(self, point: Point, request: Request) -> list[Request]:
        """Look at the word of the step that is about to be made; who is to go too, where it is
        another one."""
        self._touched = None
        found = self._words.word_at(request.registers)
        if not point.word or found is None:
            return []
        known = self._known.setdefault(point.word, found[0])
        if known != found[0]:
            return self.give_up(
                f"{point}: {point.word} is at {known:#x}; the vCPU is at {found[0]:#x}"
            )
        value = self._words.value(*found)
        if value is not None:
            self._touched = *found, value
        return []

    def _concerns(self, request: Request) -> bool:
        if request.is_breakpoint or super()._concerns(request):
            return True
        later = self.result.points[len(self.result.done) :]
        return all(point.cpu != request.cpu for point in later)  # it has made its last step

    def _is_at(self, request: Request, point: Point) -> bool:
        if point.leaf >= 0:
            leaf = request.registers["rax"] & RAX_LEAF_MASK
            return not request.is_breakpoint and leaf == point.leaf
        return request.is_breakpoint and request.registers["rip"] == point.address

    def _may_pass(self, request: Request) -> bool:
        at = request.registers["rip"]
        return request.is_breakpoint and (at in self._behind or self._words.access(at) == READ)

    def _instead(self, request: Request, point: Point) -> str:
        if not request.is_breakpoint:
            if is_step(request):
                return "the vCPU is at the end"
            leaf = request.registers["rax"] & RAX_LEAF_MASK
            return f"the vCPU is in {LEAF_NAMES.get(leaf, leaf)}"
        at = request.registers["rip"]
        where = f"the vCPU is at {self._words.site(at)}"
        later = self.result.points[len(self.result.done) :]
        waits = any(one.cpu == point.cpu and one.address == at for one in later)
        if waits and self._words.access(at) in (WRITE, ""):
            return f"{where}, which waits in its store buffer there: QEMU cannot keep a store back"
        return where

    def _see_result(self, request: Request) -> None:
        point = self._awaited
        if point is None or point.cpu != request.cpu or point.leaf >= 0:
            return
        touched, self._touched = self._touched, None
        if touched is None:
            self._came(point, point.expected if point.expected is None else "not to be seen")
            return
        address, size, before = touched
        after = self._words.value(address, size)
        word = SeenWord(address, before, before if after is None else after)
        self._came(point, before if point.expected is not None else None, word)
        if point.after is not None and word.after != point.after:
            self._depart(f"{point}: {point.word} is {point.after} after it; here {word.after}")


def _behind_the_last(points: list[Point], words: GuestWords) -> frozenset[int]:
    """Where vCPUs stand that have made their last step of a schedule.

    Raises InputError where no instruction is at an address of the schedule.
    """
    last: dict[int, int] = {}
    called: set[int] = set()
    for point in points:
        if point.address:
            last[point.cpu] = words.behind(point.address)
        elif point.cpu not in called:
            # KVM's own, of which the exerciser's code is not known here; put comes after it.
            last[point.cpu] = words.put
        called.discard(point.cpu)
        if point.what == _CALL:
            called.add(point.cpu)
    return frozenset(last.values())
