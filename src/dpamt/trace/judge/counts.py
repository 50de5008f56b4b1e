"""The kernel's own counters beside what a recording shows: `dpamt trace --counts`.

The counters are read when the recording ends and nothing goes on (``dpamt trace --how drgn``).  A
region is compared where the recording leaves nothing open about it.
"""

import json
from dataclasses import dataclass
from typing import Final

from dpamt.errors import InputError
from dpamt.inputs import decode, json_reason, read_bytes
from dpamt.trace.judge.findings import COUNT_DIFFERS, TraceFinding
from dpamt.trace.judge.state import NO_PAIR, PAIR, State, origin_text

_MOST_BYTES: Final = 1 << 30
_MOST_REGION: Final = 1 << 31


_TDMR_KEYS: Final = ("size", "pamt_1g_size", "pamt_2m_size", "pamt_4k_or_bitmap_size")
_MOST_TDMRS: Final = 64
_MOST_SIZE: Final = 1 << 52


@dataclass(frozen=True, slots=True)
class Counters:
    """What the script reads: counters by region, of those that are not 0; and, of each TDMR, its
    bytes and those of its PAMT at 1G, at 2M, and at 4K or of the bitmap."""

    regions: dict[int, int]
    tdmrs: tuple[tuple[int, int, int, int], ...]


def read_counts(path: str) -> Counters:
    """The counters of a file.  Raises InputError for another file."""
    expected = "expected what the script of dpamt trace --how drgn prints"
    text = decode(read_bytes(path, expected, _MOST_BYTES), path, expected)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: {json_reason(error)}; {expected}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: no JSON document; {expected}") from None
    if not isinstance(found, dict) or found.get("dpamt_counts") != 1:
        raise InputError(f"{path}: no dpamt_counts of 1; {expected}")
    rows = found.get("regions")
    if not isinstance(rows, list):
        raise InputError(f"{path}: regions is no list; {expected}")
    counts = {}
    for index, row in enumerate(rows):
        if (
            not isinstance(row, list)
            or len(row) != 2
            or not all(type(one) is int for one in row)
            or not 0 <= row[0] < _MOST_REGION
        ):
            raise InputError(f"{path}: regions[{index}] is no [region, count]; {expected}")
        counts[row[0]] = row[1]
    tdmrs = found.get("tdmrs", [])
    if not isinstance(tdmrs, list) or len(tdmrs) > _MOST_TDMRS:
        raise InputError(f"{path}: tdmrs is no list of at most {_MOST_TDMRS}; {expected}")
    for index, tdmr in enumerate(tdmrs):
        values = [tdmr.get(key) if isinstance(tdmr, dict) else None for key in _TDMR_KEYS]
        if not all(type(value) is int and 0 <= value <= _MOST_SIZE for value in values):
            raise InputError(f"{path}: tdmrs[{index}] has no {', '.join(_TDMR_KEYS)}; {expected}")
    return Counters(counts, tuple((*(tdmr[key] for key in _TDMR_KEYS),) for tdmr in tdmrs))


def compare(state: State, counts: dict[int, int], now: int) -> list[TraceFinding]:
    """Regions whose counter is not what the pages in use say."""
    found = []
    for index, region in sorted(state.regions.items()):
        if not region.exact or state.blind or not state.dynamic:
            continue
        count, used = counts.get(index, 0), region.used.bit_count()
        if region.state in (PAIR, NO_PAIR) and count != used:
            found.append(
                TraceFinding(
                    *(
                        COUNT_DIFFERS,
                        now,
                        -1,
                        f"region {index << 21:#x}: the kernel counts {count}",
                    ),
                    f"{used} of its pages are in use (last: {origin_text(region.origin)})",
                )
            )
    if state.fresh:
        found += [
            TraceFinding(
                *(COUNT_DIFFERS, now, -1, f"region {index << 21:#x}: the kernel counts {count}"),
                "the recording, which begins with SYS.CONFIG, has no page of it in use",
            )
            for index, count in sorted(counts.items())
            if index not in state.regions
        ]
    return found
