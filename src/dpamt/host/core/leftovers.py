"""What a design declares to leave behind when nothing runs, counted: so much and no further.

Two declarations (:mod:`dpamt.host.designs.base`): ``PAIRS_MAY_STAY``, the pair of a region that
nobody uses may stay installed; ``SPARE_PAGES``, that many pages at most may be kept by the design
itself, in words of its own.  The audit of a run and the ends that ``dpamt verify`` judges ask here,
so that both mean the same by them.
"""

from collections.abc import Collection

from dpamt.host.designs.base import Design


def stays(design: Design, count: int) -> bool:
    """Whether the pair of a region may be there with this count, nobody using the region."""
    return design.pairs_may_stay and count == 0


def kept_pages(design: Design, kept: Collection[int]) -> str:
    """What is wrong with pages that nobody has and that are not given back; empty: nothing.

    ``kept`` are those in no pair and in no use of the module's.
    """
    if len(kept) <= design.spare_pages:
        return ""
    pages = ", ".join(f"{pfn:#x}" for pfn in sorted(kept)[:8])
    more = ", ..." if len(kept) > 8 else ""
    allowed = f", {design.spare_pages} may be kept" if design.spare_pages else ""
    return f"{len(kept)} pages are not given back{allowed}: {pages}{more}"


def kept_count(design: Design, taken: int, pairs: int) -> str:
    """The same where pages are only counted: ``taken`` of the allocator, ``pairs`` installed."""
    spare = taken - 2 * pairs
    if 0 <= spare <= design.spare_pages:
        return ""
    allowed = f", {design.spare_pages} more may be kept" if design.spare_pages else ""
    return f"{taken} pages are taken, {pairs} pairs are installed{allowed}"


def declared(design: Design) -> tuple[str, ...]:
    """The declarations of a design that its verdict rests on, a line each."""
    lines = []
    if design.pairs_may_stay:
        lines.append("declared: the pair of an unused region may stay (PAIRS_MAY_STAY)")
    if design.spare_pages:
        lines.append(f"declared: up to {design.spare_pages} spare pages are kept (SPARE_PAGES)")
    if design.removal == "worker":
        lines.append("declared: pairs are removed by a worker later on (REMOVAL)")
    if design.removal == "rcu":
        lines.append("declared: pairs are removed by RCU callbacks later on (REMOVAL)")
    return tuple(lines)
