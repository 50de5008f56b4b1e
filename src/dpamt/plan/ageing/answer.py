"""The answer to a host that ages: what it saves over its weeks decides, not the fresh host."""

from dataclasses import dataclass

from dpamt.plan.ageing.both import BothAges
from dpamt.plan.ageing.simulate import Ageing
from dpamt.plan.ageing.tornado import saved_by
from dpamt.plan.answer import EXIT_CODES, MARGINAL_SHARE, Answer, Kind


@dataclass(frozen=True, slots=True)
class AgedOutlook:
    """PAMT over the weeks, in bytes; ``saved`` is static less Dynamic PAMT.

    ``dynamic`` and ``saved`` are means over time and seeds, ``saved_worst`` is that of the hour
    with most pairs.  ``tds`` are there on average.
    """

    dynamic: int
    saved: int
    saved_worst: int
    saved_of_ram: float
    tds: float


@dataclass(frozen=True, slots=True)
class AgedAnswer:
    """The verdict over the weeks; where TDX does not come up, that of the fresh host."""

    kind: Kind
    today: AgedOutlook
    tomorrow: AgedOutlook
    limit: str
    """What turned most TDs away: ``KeyIDs``, ``memory``, or empty where nearly none was."""

    @property
    def exit_code(self) -> int:
        """0 or 1."""
        return EXIT_CODES[self.kind]


def aged_answer(fresh: Answer, both: BothAges, memory_bytes: int) -> AgedAnswer:
    """From the ageing of a host of so much memory, and the answer to it when it is fresh."""
    now, then = (_outlook(one, memory_bytes) for one in (both.today, both.tomorrow))
    return AgedAnswer(_kind(fresh, now), now, then, _limit(both.today))


def _outlook(ageing: Ageing, memory_bytes: int) -> AgedOutlook:
    saved = round(saved_by(ageing))
    tds = sum(ageing.tds.mean) / len(ageing.tds.mean)
    worst = ageing.static_bytes - round(max(ageing.dynamic_bytes.mean))
    return AgedOutlook(ageing.static_bytes - saved, saved, worst, saved / memory_bytes, tds)


def _kind(fresh: Answer, now: AgedOutlook) -> Kind:
    if fresh.kind in (
        *("failed-in-its-log", "does-not-come-up", "needs-a-patch"),
        "no-dynamic-pamt",
    ):
        return fresh.kind
    if now.tds < 0.5:
        return "does-not-fit"
    if abs(now.saved_of_ram) < MARGINAL_SHARE:
        return "marginal"
    return "saves" if now.saved > 0 else "costs"


def _limit(ageing: Ageing) -> str:
    refused, without = ageing.refused.mean[0], ageing.without_keyid.mean[0]
    if round(refused) < 1:
        return ""
    return "KeyIDs" if without >= refused / 2 else "memory"
