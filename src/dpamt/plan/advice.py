"""Which mode a host is better off with."""

from typing import Final, Literal

from dpamt.plan.host_size import HostSize
from dpamt.plan.mix_size import MixSize
from dpamt.plan.vintages import DYNAMIC_VINTAGES, STATIC_VINTAGES

Choice = Literal["dynamic", "static", "either", "neither"]

_SMALL_SHARE: Final = 0.02
"""A saving below this share of static PAMT decides nothing."""


def choose(host: HostSize, mix: MixSize | None) -> Choice:
    """By the sizes with the mix on a fresh host, or at idle where there is none.

    A mode that no vintage comes up in is not chosen; ``neither`` when that is both.
    """
    static, dynamic = (
        any(host.verdict(name).pamt == mode for name in names)
        for mode, names in (("static", STATIC_VINTAGES), ("dynamic", DYNAMIC_VINTAGES))
    )
    if not static and not dynamic:
        return "neither"
    if not dynamic:
        return "static"
    if not static:
        return "dynamic"
    size = mix.dynamic.fresh if mix else host.dynamic.total
    saved = host.static.total - size
    if abs(saved) < _SMALL_SHARE * host.static.total:
        return "either"
    return "dynamic" if saved > 0 else "static"
