"""TDs that a host is to carry, as people write them: ``40x16GiB/4vcpu@2M=90%``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dpamt.abi.pages import PAGE_SIZE, SIZE_2M
from dpamt.errors import InputError
from dpamt.run.check import parse_bytes, size_text

MAX_TDS: Final = 1 << 20
MAX_VCPUS: Final = 4096
MAX_MEMORY: Final = 1 << 46
"""Bytes of one TD: what fits below a KeyID."""

EXPECTED: Final = "[COUNT x] SIZE [/ VCPUS vcpu] [@ 2M = SHARE %], such as 40x16GiB/4vcpu@2M=90%"

IMAGE_BYTES: Final = PAGE_SIZE
"""Memory that is added at 4K when a TD is built, so that its 2M range stays at 4K.  An image that
ends in the first 2M range makes no difference to any size, and more is not worth asking for."""

_MIX: Final = re.compile(
    r"(?:(?P<count>-?\d{1,9})\s*[x*]\s*)?(?P<memory>-?\d[\d.]*\s*[A-Za-z]*)"
    r"(?:\s*/\s*(?P<vcpus>-?\d{1,9})\s*(?:vcpus?|cpus?))?"
    r"(?:\s*@\s*2M\s*=\s*(?P<share>-?\d{1,3}(?:\.\d{1,6})?)\s*%)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TdMix:
    """TDs that are alike: ``memory`` in bytes, whole 2 MiB; ``share_2m`` of it mapped at 2M."""

    count: int
    memory: int
    vcpus: int = 1
    share_2m: float = 1.0
    share_said: bool = field(default=True, compare=False)
    """Whether the share was given; what no merged kernel does is assumed elsewhere, and marked."""

    def __str__(self) -> str:
        text = f"{self.count}x{size_text(self.memory)}/{self.vcpus}vcpu"
        if self.share_2m or self.share_said:
            text += f"@2M={100 * self.share_2m:g}%"
        return text


def at_4k(mixes: Sequence[TdMix]) -> tuple[TdMix, ...]:
    """The same TDs with all of their memory at 4K: what merged kernels do."""
    return tuple(replace(mix, share_2m=0.0) for mix in mixes)


def at_2m(mixes: Sequence[TdMix], assumed: float) -> tuple[TdMix, ...]:
    """The same TDs with 2M pages, as a series does that is not merged; ``assumed`` is the share of
    those that do not say.
    """
    return tuple(mix if mix.share_said else replace(mix, share_2m=assumed) for mix in mixes)


def parse_mix(text: str) -> TdMix:
    """One ``--td``.  Without a count one TD, without VCPUs one, without a share 0 % at 2M.

    Raises InputError for another form and for numbers that no TD can have.
    """
    match = _MIX.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--td {text!r}: expected {EXPECTED}")
    count, vcpus = int(match["count"] or 1), int(match["vcpus"] or 1)
    share = float(match["share"] or 0)
    memory = parse_bytes(match["memory"].replace(" ", ""))
    if not 1 <= count <= MAX_TDS:
        raise InputError(f"--td {text!r}: {count} TDs; expected 1 to {MAX_TDS}")
    if memory is None or not SIZE_2M <= memory <= MAX_MEMORY or memory % SIZE_2M:
        raise InputError(
            f"--td {text!r}: memory {match['memory']}; expected whole 2 MiB, 2MiB to "
            f"{size_text(MAX_MEMORY)}"
        )
    if not 1 <= vcpus <= MAX_VCPUS:
        raise InputError(f"--td {text!r}: {vcpus} VCPUs; expected 1 to {MAX_VCPUS}")
    if not 0 <= share <= 100:
        raise InputError(f"--td {text!r}: {share:g} % at 2M; expected 0 to 100")
    return TdMix(count, memory, vcpus, share / 100, match["share"] is not None)
