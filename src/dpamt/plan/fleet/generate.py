"""VM lives made up by a seed, for those who have no trace; the distributions are the code's words.

- Arrivals: a Poisson process whose rate swings by ``daily_swing`` over the day (thinning).
- Sizes: VCPUs 1, 2, 4, 8, 16, 32 with the shares of a :class:`Profile`; memory 2, 4 or 8 GiB for
  each VCPU with the shares of :data:`GIB_PER_VCPU`.
- Lives: lognormal, of two kinds, short ones and a share of long ones.  Most VMs are short, most
  memory is in long ones, as in the public Azure traces (E. Cortez et al., "Resource Central", SOSP
  2017).
- At time 0 the fleet is as full as it will be: VMs that came before, with the rest of their lives.

Of the two profiles ``busy`` has many short VMs, and large ones; ``azure`` has the totals of the
Azure trace of 2017 (:data:`AZURE_2017`): the mean life within a window of 30 days and the mean
number of cores.  How both are distributed is not published there, and made up here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, exp
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dpamt.errors import InputError
from dpamt.plan.fleet.vms import check_columns

VCPUS: Final = np.array([1, 2, 4, 8, 16, 32])
GIB_PER_VCPU: Final = (np.array([2, 4, 8]), np.array([0.3, 0.5, 0.2]))
SHORT_MEDIAN_SECONDS: Final = 20 * 60
SIGMA: Final = 1.2
"""Of the logarithm of both kinds of lives."""
_SPREAD: Final = exp(SIGMA**2 / 2)
"""Mean of a lognormal in medians."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What is published of a trace."""

    vms: int
    vm_hours: int
    core_hours: int
    hours: float
    """Length of the trace."""

    @property
    def mean_life_hours(self) -> float:
        """Of a VM, as far as it lies within the trace."""
        return self.vm_hours / self.vms

    @property
    def mean_vcpus(self) -> float:
        """Weighted by time."""
        return self.core_hours / self.vm_hours


AZURE_2017: Final = Totals(2_013_767, 104_371_713, 237_815_104, 720.0)
"""Source: Azure/AzurePublicDataset, AzurePublicDatasetV1.md, "Main characteristics"."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Shares of VMs by VCPUs, the share of long lives, and their median."""

    name: str
    size_shares: tuple[float, ...]
    long_share: float
    long_median_hours: float

    def mean_life_hours(self, long_share: float | None = None) -> float:
        """Of a VM, from its arrival to its departure."""
        long = self.long_share if long_share is None else long_share
        return _SPREAD * (long * self.long_median_hours + (1 - long) * SHORT_MEDIAN_SECONDS / 3600)

    def within(self, hours: float) -> float:
        """Mean life in hours of the VMs of a window, as far as it lies within the window.

        The fleet is as full at the beginning as later.  VMs that are there at the beginning are
        rate x life, those that come are rate x window; together they live rate x life x window.
        """
        life = self.mean_life_hours()
        return life * hours / (life + hours)

    @property
    def mean_vcpus(self) -> float:
        """Of a VM; sizes and lives are independent, so that time does not weigh."""
        return float(VCPUS @ np.array(self.size_shares))


PROFILES: Final = {
    "busy": Profile("busy", (0.30, 0.30, 0.22, 0.12, 0.04, 0.02), 0.05, 72.0),
    "azure": Profile("azure", (0.4927, 0.2933, 0.164, 0.04, 0.006, 0.004), 0.08, 335.97),
}
_BATCH_SECONDS: Final = 3600.0
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Made:
    """What to make up: VMs that take ``memory_gib`` on average, over ``hours``."""

    memory_gib: float
    hours: float
    seed: int = 0
    long_share: float | None = None
    """None: the profile's."""
    daily_swing: float = 0.3
    share_2m: float = 0.9
    profile: Profile = PROFILES["busy"]

    def __post_init__(self) -> None:
        checks = (
            ("memory_gib", self.memory_gib > 0, "GiB above 0"),
            ("hours", 0 < self.hours <= 24 * 3660, "hours above 0, up to ten years"),
            ("long_share", 0 <= (self.long_share or 0) <= 1, "a share from 0 to 1"),
            ("daily_swing", 0 <= self.daily_swing < 1, "a share from 0, below 1"),
            ("share_2m", 0 <= self.share_2m <= 1, "a share from 0 to 1"),
        )
        for name, good, expected in checks:
            if not good:
                raise InputError(
                    f"generated VMs: {name} {getattr(self, name)}: expected {expected}"
                )


def generate_vms(made: Made) -> Iterator[pa.RecordBatch]:
    """Batches of an hour, arrivals ascending; the same seed, the same VMs."""
    random = np.random.Generator(np.random.PCG64(made.seed))
    mean_life = 3600 * made.profile.mean_life_hours(made.long_share)
    mean_gib = made.profile.mean_vcpus * float(GIB_PER_VCPU[0] @ GIB_PER_VCPU[1])
    rate = made.memory_gib / mean_gib / mean_life
    yield _standing(made, random, rate * mean_life)
    for hour in range(ceil(made.hours)):
        start = hour * _BATCH_SECONDS
        most = rate * (1 + made.daily_swing)
        count = int(random.poisson(most * _BATCH_SECONDS))
        arrivals = start + np.sort(random.random(count)) * _BATCH_SECONDS
        swing = 1 + made.daily_swing * np.sin(2 * np.pi * arrivals / _DAY)
        kept = arrivals[random.random(count) * (1 + made.daily_swing) < swing]
        kept = kept[kept < made.hours * 3600]
        yield _batch(made, random, kept, kept + _lives(made, random, len(kept), 0.0))


def _standing(made: Made, random: np.random.Generator, count: float) -> pa.RecordBatch:
    """Those there at time 0: lives weighted by their length, of which a uniform part is left.

    A lognormal weighted by its value is a lognormal whose logarithm is larger by sigma squared.
    """
    number = int(random.poisson(count))
    left = _lives(made, random, number, SIGMA**2) * random.random(number)
    return _batch(made, random, np.zeros(number), left)


def _lives(
    made: Made, random: np.random.Generator, count: int, shift: float
) -> NDArray[np.float64]:
    """Lengths of lives; with a shift, weighted by their length."""
    long = made.profile.long_share if made.long_share is None else made.long_share
    long_median = 3600 * made.profile.long_median_hours
    if shift:
        weight = long * long_median
        long = weight / (weight + (1 - long) * SHORT_MEDIAN_SECONDS)
    medians = np.where(random.random(count) < long, long_median, SHORT_MEDIAN_SECONDS)
    lives: NDArray[np.float64] = medians * np.exp(shift + SIGMA * random.standard_normal(count))
    return lives


def _batch(
    made: Made,
    random: np.random.Generator,
    arrivals: NDArray[np.float64],
    departures: NDArray[np.float64],
) -> pa.RecordBatch:
    count = len(arrivals)
    vcpus = random.choice(VCPUS, count, p=made.profile.size_shares)
    memory = vcpus * random.choice(GIB_PER_VCPU[0], count, p=GIB_PER_VCPU[1])
    columns = {
        "arrival": arrivals,
        "departure": departures,
        "memory_gib": memory.astype(np.float64),
        "vcpus": vcpus.astype(np.float64),
    }
    names = {name: name for name in (*columns, "share_2m")}
    return check_columns(columns, lambda row: f"generated VM {row}", names, made.share_2m)
