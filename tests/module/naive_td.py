"""What TDs and physical pages are, told naively: the oracle of the life-cycle machine.

Physical memory is a dict of 4K pages in use, a set of regions with a pair and a dict of 2M pages.
A TD is a dict of 2M slots of guest memory; a blocked entry is tracked once a TRACK came after it.
"""

from dataclasses import dataclass, field

from dpamt.abi.pages import SIZE_2M

MAPPED, PENDING = "mapped", "pending"


@dataclass
class Entry:
    """An entry of a naive S-EPT: a page (``children`` None) or a table of 512."""

    page: int
    state: str
    children: "dict[int, Entry] | None" = None
    blocked: bool = False
    tracked: bool = False

    @property
    def leaf(self) -> bool:
        return self.children is None


@dataclass
class NaiveTd:
    """A TD; ``runs``: finalized, so that a page must be blocked and tracked before it goes."""

    tdr: int
    runs: bool
    slots: dict[int, Entry] = field(default_factory=dict)

    def removable(self, entry: Entry) -> bool:
        return not self.runs or (entry.blocked and entry.tracked)

    def table(self, slot: int) -> dict[int, Entry] | None:
        """The 4K entries of a slot, where the guest could reach them."""
        entry = self.slots.get(slot)
        if entry is None or entry.blocked:
            return None
        return entry.children

    def find(self, slot: int, index: int | None) -> Entry | None:
        """The entry of a slot, or of one 4K page in it."""
        if index is None:
            return self.slots.get(slot)
        table = self.table(slot)
        return None if table is None else table.get(index)

    def drop(self, slot: int, index: int | None) -> None:
        if index is None:
            del self.slots[slot]
        else:
            table = self.table(slot)
            assert table is not None
            del table[index]

    def track(self) -> None:
        for entry in self.slots.values():
            entry.tracked = True
            for child in (entry.children or {}).values():
                child.tracked = True


@dataclass
class NaiveMemory:
    """Physical memory."""

    used: set[int] = field(default_factory=set)
    """4K pages that a TD has as 4K pages."""
    large: set[int] = field(default_factory=set)
    """2M regions that a TD has as one page."""
    pairs: dict[int, tuple[int, int]] = field(default_factory=dict)
    pamt_pages: set[int] = field(default_factory=set)

    def region(self, page: int) -> int:
        return page & ~(SIZE_2M - 1)

    def free_4k(self, page: int) -> bool:
        """Whether the page can become a TD's."""
        return (
            self.region(page) in self.pairs
            and page not in self.used
            and page not in self.pamt_pages
        )

    def free_2m(self, region: int) -> bool:
        """Whether the region can become a TD's 2M page."""
        return (
            region not in self.pairs
            and region not in self.large
            and not any(self.region(page) == region for page in self.pamt_pages)
        )

    def hint(self, page: int) -> bool:
        """Whether nothing of the page's region is in use."""
        return not any(self.region(other) == self.region(page) for other in self.used)

    def add_pair(self, region: int, pair: tuple[int, int]) -> None:
        self.pairs[region] = pair
        self.pamt_pages.update(pair)

    def remove_pair(self, region: int) -> tuple[int, int]:
        pair = self.pairs.pop(region)
        self.pamt_pages.difference_update(pair)
        return pair
