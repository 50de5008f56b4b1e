"""The answer to a plan, for somebody who decides: one verdict, from which the exit code follows.

The order is that of the questions: does TDX come up here (the host's own log is believed before any
model), do the TDs fit, and what does Dynamic PAMT save, today (4K guest memory, as merged) and
tomorrow (2M guest memory, a series that is not merged).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from dpamt.module.releases import offers_dynamic_pamt
from dpamt.plan.host_size import HostSize
from dpamt.plan.mix_size import MixSize
from dpamt.plan.vintages import DYNAMIC_VINTAGES, STATIC_VINTAGES
from dpamt.platform.tdx_log import Failure

Kind = Literal[
    "failed-in-its-log",
    "does-not-come-up",
    "needs-a-patch",
    "does-not-fit",
    "no-dynamic-pamt",
    "costs",
    "marginal",
    "saves",
]

EXIT_CODES: Final[Mapping[Kind, int]] = {
    "failed-in-its-log": 1,
    "does-not-come-up": 1,
    "needs-a-patch": 1,
    "does-not-fit": 1,
    "no-dynamic-pamt": 0,
    "costs": 1,
    "marginal": 0,
    "saves": 0,
}
"""1: somebody has to do something before TDs run here as asked, or Dynamic PAMT costs memory."""

MARGINAL_SHARE: Final = 0.0005
"""A saving or cost below this share of RAM decides nothing (all of static PAMT is 0.004)."""

NEAR_RESERVED: Final = 2
"""Reserved areas left in the fullest TDMR, from which on the report names that limit."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """PAMT with the TDs, at one of the two times; without TDs, at idle.  Bytes.

    ``saved`` is static less Dynamic PAMT on a fresh host, ``saved_worst`` with each single page in
    a region of its own; below 0 Dynamic PAMT takes more.
    """

    name: str
    """``today`` or ``tomorrow``."""
    about: str
    dynamic: int
    dynamic_worst: int
    saved: int
    saved_worst: int
    saved_of_ram: float
    more_tds: int
    """TDs that fit under Dynamic PAMT only; 0 without TDs."""
    share_assumed: bool
    """Whether the share of 2M pages is an assumption, not said for any TD."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict and what it rests on."""

    kind: Kind
    today: Outlook
    tomorrow: Outlook
    short_of: tuple[str, ...]
    """What today's mix lacks; empty where it fits."""
    limit: str
    """What ends first: ``KeyIDs``, ``memory`` or ``reserved areas``; empty where TDX is not up."""
    failure: Failure | None
    """The line of the host's own log that shows why TDX did not come up."""
    module_offers: bool | None
    """Whether the module that the host's log names offers Dynamic PAMT; None where it names none,
    or the version is too short to tell."""

    @property
    def exit_code(self) -> int:
        """0 or 1."""
        return EXIT_CODES[self.kind]


TODAY: Final = "4K guest memory, as merged"
TOMORROW: Final = "2M guest memory, a series not merged"


def outlook(host: HostSize, mix: MixSize | None, name: str, assumed: bool) -> Outlook:
    """PAMT of the host with this mix."""
    static = host.static.total
    dynamic = mix.dynamic.fresh if mix else host.dynamic.total
    worst = mix.dynamic.worst if mix else host.dynamic.total
    return Outlook(
        name,
        TODAY if name == "today" else TOMORROW,
        dynamic,
        worst,
        static - dynamic,
        static - worst,
        (static - dynamic) / host.memory_bytes,
        mix.more_tds if mix else 0,
        assumed,
    )


def answer(
    host: HostSize, today: MixSize | None, tomorrow: MixSize | None, assumed: bool
) -> Answer:
    """The answer for a host; ``today`` and ``tomorrow`` are its TDs at 4K and with 2M pages."""
    now, then = outlook(host, today, "today", False), outlook(host, tomorrow, "tomorrow", assumed)
    log = host.log
    failure = log.why if log else None
    offers = module_offers(host)
    return Answer(
        _kind(host, today, now, failure, offers),
        now,
        then,
        today.short_of if today else (),
        _limit(host, today),
        failure,
        offers,
    )


def module_offers(host: HostSize) -> bool | None:
    """Whether the host's own module offers Dynamic PAMT, by its log."""
    log = host.log
    if log is not None and log.dynamic_pamt:
        return True
    if log is None or log.module_version is None:
        return None
    return offers_dynamic_pamt(log.module_version)


def _kind(
    host: HostSize,
    today: MixSize | None,
    now: Outlook,
    failure: Failure | None,
    offers: bool | None,
) -> Kind:
    if failure is not None and (failure.cause.fatal or (host.log and host.log.came_up is False)):
        return "failed-in-its-log"
    ups = {name: host.verdict(name).initialises for name in (*STATIC_VINTAGES, *DYNAMIC_VINTAGES)}
    if not any(ups.values()):
        return "does-not-come-up"
    plain = ups[STATIC_VINTAGES[0]] or ups[DYNAMIC_VINTAGES[0]]
    # A host whose log says that it came up runs a kernel that can.
    if not plain and (host.log is None or not host.log.came_up):
        return "needs-a-patch"
    if today is not None and not today.fits:
        return "does-not-fit"
    if offers is False or host.verdict(_first_up(ups)).pamt != "dynamic":
        return "no-dynamic-pamt"
    if abs(now.saved_of_ram) < MARGINAL_SHARE:
        return "marginal"
    return "saves" if now.saved > 0 else "costs"


def _first_up(ups: Mapping[str, bool]) -> str:
    return next((name for name in DYNAMIC_VINTAGES if ups[name]), DYNAMIC_VINTAGES[0])


def _limit(host: HostSize, mix: MixSize | None) -> str:
    used = [
        verdict.reserved_max - verdict.reserved_used
        for name in DYNAMIC_VINTAGES[:1]
        for verdict in (host.verdict(name),)
        if verdict.reserved_used is not None
    ]
    if used and used[0] < 0:
        return "reserved areas"
    return mix.limit if mix else "KeyIDs"
