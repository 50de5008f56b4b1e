"""What two SEAMCALLs at once came to: how both ended and what they left, recorded or reached.

Only what the record keeps is compared, so that outcomes are values that can be held side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES, TDH_PHYMEM_PAGE_RDMD
from dpamt.abi.pages import LEVEL_2M, PAGE_SHIFT
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import status_name
from dpamt.module.module import TdxModule
from dpamt.module.view import ModuleView
from dpamt.trace.vector_file import Json, Race, number
from dpamt.trace.vectors import SHUTDOWN, recorded_answer

UNFINISHED: Final = "unfinished"
_CALLS: Final = "ab"
_RDMD: Final = LEAF_NAMES[TDH_PHYMEM_PAGE_RDMD]
_RECORDED_REGISTERS: Final = frozenset({"rcx", "rdx", "r8", "r12", "r13"})
"""What the recording of races kept of each answer; others are compared where a file has them."""


@dataclass(frozen=True, slots=True)
class End:
    """How one call ended: RAX and its registers, or ``event`` when there is no answer.

    Registers are the ones that the race compares.

    ``event`` is :data:`SHUTDOWN` or :data:`UNFINISHED` (the other CPU's call shut the module down).
    """

    status: int = 0
    registers: tuple[tuple[str, int], ...] = ()
    event: str = ""

    def __str__(self) -> str:
        return self.event or status_name(self.status)


@dataclass(frozen=True, slots=True)
class Left:
    """What both calls leave behind; addresses in bytes, ascending.

    ``nodes``: of each region with a pair: address, page count, both pages.  ``leaves_2m``: 2M pages
    in use.  ``bitmap``: pages that hold PAMT.
    """

    nodes: tuple[tuple[int, int, int, int], ...]
    leaves_2m: tuple[int, ...]
    bitmap: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How both calls ended, and what they left; nothing where the module shut itself down."""

    a: End
    b: End
    left: Left | None

    def __str__(self) -> str:
        return f"a: {self.a}, b: {self.b}"


def compared_registers(race: Race) -> frozenset[str]:
    """The registers that a race compares."""
    listed = {name for outcome in race.outcomes for end in _CALLS for name in outcome[end]}
    return _RECORDED_REGISTERS | listed & set(REGISTER_NAMES)


def answered(
    call: Json, status: int, registers: Mapping[str, int], compared: frozenset[str]
) -> End:
    """An answer as it is compared: RDMD shows whose a free page was before, which means nothing."""
    stale = {"rdx"} if call["leaf"] == _RDMD and not registers["rcx"] else set()
    kept = tuple(
        (name, value) for name, value in registers.items() if name in compared and name not in stale
    )
    return End(status, kept)


def recorded_outcome(race: Race, compared: frozenset[str], outcome: Json) -> Outcome:
    """An outcome of a race as its file has it."""
    place = race.before.place
    calls = zip(_CALLS, (race.a, race.b), strict=True)
    ends = [_recorded_end(race, call, outcome[name], compared) for name, call in calls]
    if any(end.event for end in ends):
        return Outcome(ends[0], ends[1], None)
    final = outcome["final"]
    return Outcome(
        ends[0],
        ends[1],
        Left(
            tuple(
                sorted(
                    (
                        number(node["hpa"], place),
                        number(node["count"], place),
                        number(node["hpa0"], place),
                        number(node["hpa1"], place),
                    )
                    for node in final["nodes"]
                )
            ),
            tuple(sorted(number(hpa, place) for hpa in final["leaves_2m"])),
            tuple(sorted(number(hpa, place) for hpa in final["bitmap"])),
        ),
    )


def _recorded_end(race: Race, call: Json, end: Json, compared: frozenset[str]) -> End:
    if end.get("unfinished"):
        return End(event=UNFINISHED)
    answer = recorded_answer(end, inputs_of(race, call), race.before.place)
    if answer.status is None:
        return End(event=SHUTDOWN)
    return answered(call, answer.status, answer.registers, compared)


def inputs_of(race: Race, call: Json) -> dict[str, int]:
    """The registers that a call of a race goes in with."""
    return {name: number(call.get(name, 0), race.before.place) for name in REGISTER_NAMES}


def left_by(module: TdxModule) -> Left:
    """What is left in a module in which nothing runs."""
    view = ModuleView(module)
    return Left(
        tuple(
            (region << 21, pair.page_count, pair.pfn0 << PAGE_SHIFT, pair.pfn1 << PAGE_SHIFT)
            for region, pair in view.pairs().items()
        ),
        tuple(page << PAGE_SHIFT for page in sorted(view.large_pages(LEVEL_2M))),
        tuple(page << PAGE_SHIFT for page in sorted(view.pamt_pages())),
    )
