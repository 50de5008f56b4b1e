"""A fleet today and tomorrow, over seeds, and the answer to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from dpamt.plan.confidence import Interval, confidence
from dpamt.plan.fleet.results import Fleet

Kind = Literal["does-not-fit", "costs", "hosts-lose", "marginal", "saves"]

MARGINAL_SHARE: Final = 0.0005
"""Of RAM, as for one host."""
MANY_TURNED_AWAY: Final = 0.05
"""Share of the VMs that find no host, from which on the fleet is too small for them."""


@dataclass(frozen=True, slots=True)
class BothFleets:
    """``today`` has all memory of TDs at 4K, ``tomorrow`` as VMs say, or ``share_2m`` at 2M, both
    by the first seed; ``seeds`` are (today, tomorrow) of each seed.
    """

    today: Fleet
    tomorrow: Fleet
    seeds: tuple[tuple[Fleet, Fleet], ...]
    share_2m: float
    share_assumed: bool
    price: float | None = None
    """Of a GiB for a month."""
    driven_by: str = ""
    """What drives the outcome, in words."""
    notes: tuple[str, ...] = ()
    """What is worth telling of the file of VMs."""

    @property
    def kind(self) -> Kind:
        """What the answer is: of today."""
        now = self.today
        if min(now.turned_away_static, now.turned_away_dynamic) > MANY_TURNED_AWAY * now.vms:
            return "does-not-fit"
        if abs(now.mean_saved) < MARGINAL_SHARE * now.memory_bytes:
            return "marginal"
        if now.mean_saved < 0:
            return "costs"
        return "hosts-lose" if now.hosts_losing_on_average else "saves"

    @property
    def exit_code(self) -> int:
        """1 where VMs find no host, or hosts lose on average; else 0."""
        return int(
            self.kind in ("does-not-fit", "costs", "hosts-lose")
            or self.today.hosts_losing_on_average > 0
        )

    def over_seeds(self, value: Callable[[Fleet], float], today: bool) -> Interval | None:
        """Mean and 95 % confidence interval over seeds; None of one seed."""
        if len(self.seeds) < 2:
            return None
        column = [value(fleets[0 if today else 1]) for fleets in self.seeds]
        return confidence([column], least=float("-inf"))
