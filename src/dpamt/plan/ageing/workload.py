"""What happens on a host for weeks, as data: which TDs come, how long they stay, what they do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dpamt.abi.pages import SIZE_2M
from dpamt.errors import InputError
from dpamt.plan.ageing.boot import Grouping
from dpamt.plan.ageing.pages import ControlPlacement, PairPlacement


class TdShape(Protocol):
    """TDs that are alike; ``count`` is their weight among the arrivals."""

    @property
    def count(self) -> int:
        """How often they come, relative to the others."""

    @property
    def memory(self) -> int:
        """Bytes, whole 2 MiB."""

    @property
    def vcpus(self) -> int:
        """VCPUs."""

    @property
    def share_2m(self) -> float:
        """Share (0 to 1) of the memory that the guest accepts at 2M."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A host's weeks.  Shares are from 0 to 1, times in hours.

    TDs come as a Poisson process, fast enough to keep ``occupancy`` of the host's memory in TDs,
    and stay for exponentially distributed times; one that finds no room, or no guest KeyID, goes
    elsewhere.  Each takes
    ``touched_at_start`` of its memory at once and the rest evenly over ``warm_up_hours``.  Every
    hour, of its 2M ranges in use, a share ``converted_per_hour`` has ``conversion_pages`` pages
    made shared and private again, and a share ``ballooned_per_hour`` goes back to the host until
    the next hour.
    """

    tds: Sequence[TdShape]
    occupancy: float = 0.8
    mean_life_hours: float = 48.0
    touched_at_start: float = 0.25
    warm_up_hours: float = 6.0
    converted_per_hour: float = 0.0002
    conversion_pages: int = 16
    ballooned_per_hour: float = 0.0005
    image_pages: int = 1024
    fragmentation: float = 0.1
    """Pages that the kernel takes after boot, as a share of the 2M regions."""
    grouping: Grouping = "page-block"
    """Where they lie: by default together, as Linux groups unmovable pages."""
    pairs: PairPlacement = "single"
    control: ControlPlacement = "single"
    max_tds: int | None = None
    """TDs that may live at once; None: as many as there are guest KeyIDs."""

    def __post_init__(self) -> None:
        for name in ("occupancy", "touched_at_start", "fragmentation"):
            self._check(name, 0.0 <= getattr(self, name) <= 1.0, "a share from 0 to 1")
        for name in ("converted_per_hour", "ballooned_per_hour"):
            self._check(name, 0.0 <= getattr(self, name) <= 1.0, "a share from 0 to 1")
        for name in ("mean_life_hours", "warm_up_hours"):
            self._check(name, 0.0 < getattr(self, name) < 1e6, "hours above 0")
        self._check("conversion_pages", 1 <= self.conversion_pages <= 512, "1 to 512 pages")
        self._check("image_pages", 0 <= self.image_pages, "0 pages or more")
        self._check("occupancy", self.occupancy > 0, "a share above 0")
        self._check("max_tds", self.max_tds is None or self.max_tds >= 1, "at least 1")
        if not self.tds:
            raise InputError("ageing: no TDs; expected at least one kind")
        for td in self.tds:
            if td.memory < SIZE_2M or td.memory % SIZE_2M or td.vcpus < 1 or td.count < 1:
                raise InputError(
                    f"ageing: a TD of {td.memory} bytes with {td.vcpus} VCPUs, {td.count} times; "
                    "expected whole 2 MiB, and at least one of each"
                )
            if not 0.0 <= td.share_2m <= 1.0:
                raise InputError(f"ageing: share at 2M {td.share_2m}: expected 0 to 1")

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise InputError(f"ageing: {name} {getattr(self, name)}: expected {expected}")
