"""VM lives made up by a seed, for those who have no trace; the distributions are the code's words.

- Arrivals: a Poisson process whose rate swings by ``daily_swing`` over the day (thinning).
- Sizes: VCPUs 1, 2, 4, 8, 16, 32 with the shares of :data:`SIZE_SHARES`; memory 2, 4 or 8 GiB for
  each VCPU with those of :data:`GIB_PER_VCPU`.
- Lives: lognormal, of two kinds: short ones with a median of 20 minutes, and ``long_share`` of them
  long, with a median of three days.  Most VMs are short, most memory is in long ones, as in the
  public Azure traces (E. Cortez et al., "Resource Central", SOSP 2017).
- At time 0 the fleet is as full as it will be: VMs that came before, with the rest of their lives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dpamt.errors import InputError
from dpamt.plan.fleet.vms import check_columns

VCPUS: Final = np.array([1, 2, 4, 8, 16, 32])
SIZE_SHARES: Final = np.array([0.30, 0.30, 0.22, 0.12, 0.04, 0.02])
GIB_PER_VCPU: Final = (np.array([2, 4, 8]), np.array([0.3, 0.5, 0.2]))
SHORT_MEDIAN_SECONDS: Final = 20 * 60
LONG_MEDIAN_SECONDS: Final = 3 * 86400
SIGMA: Final = 1.2
"""Of the logarithm of both kinds of lives."""
_BATCH_SECONDS: Final = 3600.0
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Made:
    """What to make up: VMs that take ``memory_gib`` on average, over ``hours``."""

    memory_gib: float
    hours: float
    seed: int = 0
    long_share: float = 0.05
    daily_swing: float = 0.3
    share_2m: float = 0.9

    def __post_init__(self) -> None:
        checks = (
            ("memory_gib", self.memory_gib > 0, "GiB above 0"),
            ("hours", 0 < self.hours <= 24 * 3660, "hours above 0, up to ten years"),
            ("long_share", 0 <= self.long_share <= 1, "a share from 0 to 1"),
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
    spread = float(np.exp(SIGMA**2 / 2))
    mean_life = spread * (
        made.long_share * LONG_MEDIAN_SECONDS + (1 - made.long_share) * SHORT_MEDIAN_SECONDS
    )
    mean_gib = float(VCPUS @ SIZE_SHARES) * float(GIB_PER_VCPU[0] @ GIB_PER_VCPU[1])
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
    long = made.long_share
    if shift:
        weight = long * LONG_MEDIAN_SECONDS
        long = weight / (weight + (1 - long) * SHORT_MEDIAN_SECONDS)
    medians = np.where(random.random(count) < long, LONG_MEDIAN_SECONDS, SHORT_MEDIAN_SECONDS)
    lives: NDArray[np.float64] = medians * np.exp(shift + SIGMA * random.standard_normal(count))
    return lives


def _batch(
    made: Made,
    random: np.random.Generator,
    arrivals: NDArray[np.float64],
    departures: NDArray[np.float64],
) -> pa.RecordBatch:
    count = len(arrivals)
    vcpus = random.choice(VCPUS, count, p=SIZE_SHARES)
    memory = vcpus * random.choice(GIB_PER_VCPU[0], count, p=GIB_PER_VCPU[1])
    columns = {
        "arrival": arrivals,
        "departure": departures,
        "memory_gib": memory.astype(np.float64),
        "vcpus": vcpus.astype(np.float64),
    }
    names = {name: name for name in (*columns, "share_2m")}
    return check_columns(columns, lambda row: f"generated VM {row}", names, made.share_2m)
