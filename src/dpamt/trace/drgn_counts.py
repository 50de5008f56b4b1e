"""Read the Dynamic PAMT counters of a running kernel, or of a dump of one, with drgn.

    drgn dpamt_counts.py > counts.json                 # this host, as root
    drgn -c vmcore -s vmlinux dpamt_counts.py > counts.json

It needs symbols only, no types: the counters and their lock by either of their names (merged, v6),
``max_pfn`` and ``tdx_tdmr_list``.  This file stands alone: it runs where dpamt is not installed.

Source: Linux arch/x86/virt/vmx/tdx/tdx.c (struct tdmr_info_list, struct tdmr_info); merged commits
of 2026-09-04 (5386c5288001, eca9d4a3f1f8); v6 series (2026-05-25).
"""

import json
import struct
import sys
from typing import Any

COUNTERS = ("dpamt_refcounts", "pamt_refcounts")
LOCKS = ("dpamt_lock", "pamt_lock")
_CHUNK = 1 << 16
_REGION_PAGES = 512
_PAIR_KB = 8
_TDMR_LIST = struct.Struct("<Qiii")
"""tdmrs, nr_consumed_tdmrs, tdmr_sz, max_tdmrs."""
_TDMR_INFO = struct.Struct("<8Q")
"""base, size, then base and size of PAMT at 1G, 2M and 4K (or of the bitmap)."""
_MOST_TDMRS = 64


class NoCountersError(Exception):
    """The kernel has none: one line that says why."""


def with_symbols(prog: Any) -> None:
    """Where no file with symbols was loaded, the kernel's own table of them (kallsyms) serves:
    of a host without debugging symbols, of a dump with nothing beside it."""
    try:
        prog.symbol("max_pfn")
        return
    except LookupError:
        pass
    try:
        from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

        prog.register_symbol_finder("dpamt kallsyms", load_vmlinux_kallsyms(prog), enable_index=-1)
    except (ImportError, AttributeError, LookupError, ValueError):
        pass  # an older drgn, or no kernel: what is missing is named below


def find(prog: Any, names: "tuple[str, ...]") -> "tuple[str, int]":
    """The first of these symbols that the kernel has, and its address."""
    for name in names:
        try:
            return name, prog.symbol(name).address
        except LookupError:
            continue
    raise NoCountersError(f"no symbol {' or '.join(names)}; expected a kernel with Dynamic PAMT")


def counted(prog: Any) -> "dict[str, Any]":
    """The document that ``dpamt trace --counts`` reads.

    Raises NoCountersError, and what drgn raises for memory that cannot be read.
    """
    name, pointer = find(prog, COUNTERS)
    lock, lock_at = find(prog, LOCKS)
    max_pfn = prog.read_u64(find(prog, ("max_pfn",))[1])
    array = prog.read_u64(pointer)
    if not array:
        raise NoCountersError(f"{name} is NULL; expected a host that uses Dynamic PAMT")
    regions = []
    last = -(-max_pfn // _REGION_PAGES)
    for first in range(0, last, _CHUNK):
        number = min(_CHUNK, last - first)
        words = struct.unpack(f"<{number}i", prog.read(array + 4 * first, 4 * number))
        if any(words):
            regions += [[first + at, count] for at, count in enumerate(words) if count]
    return {
        "dpamt_counts": 1,
        "counters": name,
        "locked": prog.read_u32(lock_at) != 0,
        "lock": lock,
        "max_pfn": max_pfn,
        "tdmrs": tdmrs(prog),
        "pairs": len(regions),
        "kb": len(regions) * _PAIR_KB,
        "pages": sum(count for _region, count in regions),
        "regions": regions,
    }


def tdmrs(prog: Any) -> "list[dict[str, int]]":
    """Base and size of each TDMR, and of its PAMT by level, in bytes; none without a list."""
    try:
        at = find(prog, ("tdx_tdmr_list",))[1]
    except NoCountersError:
        return []
    first, used, size, _most = _TDMR_LIST.unpack(prog.read(at, _TDMR_LIST.size))
    keys = (
        *("base", "size", "pamt_1g", "pamt_1g_size", "pamt_2m", "pamt_2m_size"),
        *("pamt_4k_or_bitmap", "pamt_4k_or_bitmap_size"),
    )
    return [
        dict(
            zip(
                keys,
                _TDMR_INFO.unpack(prog.read(first + index * size, _TDMR_INFO.size)),
                strict=True,
            )
        )
        for index in range(min(used, _MOST_TDMRS) if first and size >= _TDMR_INFO.size else 0)
    ]


def main(prog: Any) -> int:
    """Print it; 2 where there are no counters."""
    with_symbols(prog)
    try:
        document = counted(prog)
    except NoCountersError as error:
        print(f"dpamt_counts: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document))
    sizes = {
        level: sum(tdmr[key] for tdmr in document["tdmrs"]) >> 10
        for level, key in (
            ("1G", "pamt_1g_size"),
            ("2M", "pamt_2m_size"),
            ("4K or bitmap", "pamt_4k_or_bitmap_size"),
        )
    }
    print("PAMT:", ", ".join(f"{level} {kb} KB" for level, kb in sizes.items()), file=sys.stderr)
    print(
        f"{document['pairs']} page pairs ({document['kb']} KB) for {document['pages']} pages",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(prog))  # type: ignore[name-defined]  # noqa: F821  (drgn sets it)
