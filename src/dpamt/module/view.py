"""The module's truth, read from outside for audits and reports: nothing here changes anything.

Reading takes no lock and is no step, so it belongs between SEAMCALLs, when nothing runs.  Its cost
is proportional to what has been used, not to the size of the machine.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    LEVEL_PAGES,
    PAGE_SHIFT,
    PAGE_TYPE_NAMES,
    PAGES_PER_2M,
    PT_PAMT,
    PT_TDR,
)
from dpamt.module.module import TdxModule
from dpamt.module.pamt import OWNER_SHIFT, TYPE_MASK
from dpamt.module.view_sept import check_td
from dpamt.sync.host_priority import HP, LOCK_MASK

_REGION_MASK: Final = PAGES_PER_2M - 1


class Pair(NamedTuple):
    """An installed PAMT page pair: its page frames, and PAGE_COUNT of the region it describes."""

    pfn0: int
    pfn1: int
    page_count: int


class Use(NamedTuple):
    """What a page is used for: page type, and frame number of the owning TD's TDR (0 of a TDR)."""

    type: int
    owner: int


@dataclass(frozen=True, slots=True)
class LockedEntry:
    """A lock whose word is not 0: ``where`` says whose, ``word`` is the 16-bit lock word."""

    where: str
    word: int


class ModuleView:
    """Read-only look at a module.  Pages are frame numbers (HPA >> 12), regions HPA >> 21."""

    def __init__(self, module: TdxModule) -> None:
        self._module = module
        self._pamt = module.pamt

    def pairs(self) -> dict[int, Pair]:
        """Region to its pair, for every region that has one; ascending."""
        pamt = self._pamt
        found = {}
        for region, word in sorted(pamt.first_2m.non_zero()):
            node = word.load()
            if node & TYPE_MASK == PT_PAMT:
                found[region] = Pair(
                    pamt.pair0_2m.at(region).load(),
                    pamt.pair1_2m.at(region).load(),
                    pamt.count_2m.at(region).load(),
                )
        return found

    def used_pages(self) -> dict[int, Use]:
        """4K page to its use, for every 4K entry that is not free; ascending."""
        pamt = self._pamt
        used = {}
        for region in pamt.entries_4k.pages():
            payloads = pamt.entries_4k.find(region).payloads()
            if any(payloads):
                for index, entry in enumerate(payloads):
                    if entry:
                        used[region << 9 | index] = _use(entry)
        return used

    def large_pages(self, level: int) -> dict[int, Use]:
        """First 4K page of each 2M or 1G page (``level``) to its use; ascending."""
        words = self._pamt.first_2m if level == LEVEL_2M else self._pamt.first_1g
        shift = 9 * level
        found = {}
        for index, word in sorted(words.non_zero()):
            entry = word.load()
            if entry and entry & TYPE_MASK != PT_PAMT:
                found[index << shift] = _use(entry)
        return found

    def pages_in_use(self, region: int) -> list[int]:
        """4K pages of a region whose 4K entry is not free; ascending."""
        if region not in self._pamt.entries_4k.pages():
            return []
        payloads = self._pamt.entries_4k.find(region).payloads()
        return [region << 9 | index for index, entry in enumerate(payloads) if entry]

    def reserved_pages(self, region: int) -> list[int]:
        """Pages of a region in an initialised block that lie in reserved areas; ascending."""
        bits = self._reserved_bits(region)
        return [region << 9 | index for index in range(PAGES_PER_2M) if bits >> index & 1]

    def _reserved_bits(self, region: int) -> int:
        first = region << 9
        bits = 0
        if not self._pamt.in_range(first):
            return 0
        for tdmr in self._module.tdmrs.all:
            if tdmr.first <= first < tdmr.first + tdmr.pages:
                for start, pages in tdmr.reserved:
                    low = max(start, first)
                    high = min(start + pages, first + PAGES_PER_2M)
                    if low < high:
                        bits |= (1 << high - first) - (1 << low - first)
        return bits

    def bitmap(self) -> dict[int, int]:
        """Region to its 512 page bits, where any is set (dynamic mode); bit 0 is the first page."""
        return dict(sorted(self._pamt.bitmap.non_zero()))

    def pamt_pages(self) -> list[int]:
        """Pages whose bit is set and that are not reserved: those in use as PAMT pages."""
        found = []
        for region, bits in self.bitmap().items():
            bits &= ~self._reserved_bits(region)
            found += [region << 9 | index for index in range(PAGES_PER_2M) if bits >> index & 1]
        return found

    def tds(self) -> dict[int, int]:
        """TDR page of each TD to its CHLDCNT; ascending."""
        return {
            page: self._module.tds.at(page).children.load() for page in _tdrs(self.used_pages())
        }

    def lock_words(self) -> list[LockedEntry]:
        """Every lock word that is not 0, host-priority flags included."""
        module, pamt = self._module, self._pamt
        found = []
        for name, words, shift in (
            ("1G PAMT entry", pamt.first_1g, 30),
            ("2M PAMT entry", pamt.first_2m, 21),
            ("OP_STATE of the TD at", module.tds.op_state, PAGE_SHIFT),
        ):
            for index, word in sorted(words.non_zero()):
                found.append(LockedEntry(f"{name} {index << shift:#x}", word.lock_word()))
        for name, pages, shift in (
            ("4K PAMT entry", pamt.entries_4k, PAGE_SHIFT),
            ("S-EPT entry", module.tds.sept, 3),
        ):
            for page in pages.pages():
                for index, lock in sorted(pages.find(page).locked().items()):
                    found.append(LockedEntry(f"{name} {(page << 9 | index) << shift:#x}", lock))
        for name, captured in (
            ("S-EPT tree of the TD at page", module.tds.tree.capture()),
            ("epoch of the TD at page", module.tds.epoch_lock.capture()),
            ("TDMR", module.tdmrs.locks.capture()),
            ("KeyID ownership table", module.keys.kot_locks.capture()),
            ("key engine of package", module.keys.key_engines.capture()),
            ("cache write-back of package", module.keys.write_back_lock.capture()),
            ("SYS", module.global_locks.capture()),
        ):
            found += [
                LockedEntry(f"{name} {index:#x}", word & LOCK_MASK) for index, word in captured
            ]
        return [lock for lock in found if lock.word]

    def held_locks(self) -> list[LockedEntry]:
        """Locks that someone holds; between SEAMCALLs there must be none."""
        return [lock for lock in self.lock_words() if lock.word & ~HP]

    def check(self) -> list[str]:
        """A sentence for every contradiction in the module's state; empty when all is well."""
        used = self.used_pages()
        found = [f"{lock.where} is locked ({lock.word:#x})" for lock in self.held_locks()]
        found += self._check_counts(used)
        found += self._check_bitmap(used)
        large = self.large_pages(LEVEL_2M)
        found += self._check_large(used, large)
        found += self._check_owners(used, large)
        for page in _tdrs(used):
            found += check_td(self._module, page, used, large)
        return found

    def check_region(self, region: int) -> list[str]:
        """As :meth:`check`, of one 2M region and of its pair alone; at the cost of one region."""
        pamt = self._pamt
        if not pamt.dynamic:
            return []
        name = f"region {region << 21:#x}"
        entry = pamt.first_2m.at(region).load()
        pages = self.pages_in_use(region)
        count = pamt.count_2m.at(region).load()
        if entry & TYPE_MASK != PT_PAMT:
            found = [f"{name} has used 4K pages and no pair"] if pages else []
            return found + ([f"{name}: PAGE_COUNT {count} without a pair"] if count else [])
        found = []
        if count != len(pages):
            found.append(f"{name}: PAGE_COUNT {count}, used 4K pages {len(pages)}")
        for page in (pamt.pair0_2m.at(region).load(), pamt.pair1_2m.at(region).load()):
            bits = pamt.bitmap.at(page >> 9).load()
            if not bits >> (page & _REGION_MASK) & 1:
                found.append(f"PAMT page {page << PAGE_SHIFT:#x} has no bit in the page bitmap")
        marked = pamt.bitmap.at(region).load()
        found += [
            f"PAMT page {page << PAGE_SHIFT:#x} is used as a page of a TD"
            for page in pages
            if marked >> (page & _REGION_MASK) & 1
        ]
        return found

    def _check_counts(self, used: dict[int, Use]) -> list[str]:
        if not self._pamt.dynamic:
            return []
        inside: dict[int, int] = {}
        for page in used:
            inside[page >> 9] = inside.get(page >> 9, 0) + 1
        pairs = self.pairs()
        found = [
            f"region {region << 21:#x} has used 4K pages and no pair"
            for region in inside
            if region not in pairs
        ]
        for region, pair in pairs.items():
            pages = inside.get(region, 0)
            if pair.page_count != pages:
                found.append(
                    f"region {region << 21:#x}: PAGE_COUNT {pair.page_count}, used 4K pages {pages}"
                )
        for region, count in self._pamt.count_2m.non_zero():
            if region not in pairs:
                found.append(f"region {region << 21:#x}: PAGE_COUNT {count} without a pair")
        return found

    def _check_bitmap(self, used: dict[int, Use]) -> list[str]:
        found = []
        users: dict[int, int] = {}
        for region, pair in self.pairs().items():
            for page in (pair.pfn0, pair.pfn1):
                if page in users:
                    found.append(
                        f"page {page << PAGE_SHIFT:#x} is in the pairs of regions "
                        f"{users[page] << 21:#x} and {region << 21:#x}"
                    )
                users[page] = region
                if page in used:
                    found.append(
                        f"PAMT page {page << PAGE_SHIFT:#x} is also used as "
                        f"{PAGE_TYPE_NAMES[used[page].type]}"
                    )
        marked = set(self.pamt_pages())
        found += [
            f"PAMT page {page << PAGE_SHIFT:#x} has no bit in the page bitmap"
            for page in sorted(users.keys() - marked)
        ]
        found += [
            f"bitmap bit of page {page << PAGE_SHIFT:#x} is set and no pair holds it"
            for page in sorted(marked - users.keys())
        ]
        reserved = {region: self._reserved_bits(region) for region in {page >> 9 for page in used}}
        found += [
            f"reserved page {page << PAGE_SHIFT:#x} is used as {PAGE_TYPE_NAMES[use.type]}"
            for page, use in used.items()
            if reserved[page >> 9] >> (page & _REGION_MASK) & 1
        ]
        return found

    def _check_large(self, used: dict[int, Use], large: dict[int, Use]) -> list[str]:
        found = []
        taken = set(used) | set(self.pamt_pages())
        regions = {page >> 9 for page in taken}
        for page in large:
            if page >> 9 in regions or self._reserved_bits(page >> 9):
                found.append(f"2M page {page << PAGE_SHIFT:#x} has 4K pages in other use")
        blocks = {page >> 18 for page in taken} | {page >> 18 for page in large}
        found += [
            f"1G page {page << PAGE_SHIFT:#x} has smaller pages in other use"
            for page in self.large_pages(LEVEL_1G)
            if page >> 18 in blocks
        ]
        return found

    def _check_owners(self, used: dict[int, Use], large: dict[int, Use]) -> list[str]:
        found = []
        owned: dict[int, int] = {}
        for level, uses in (
            (LEVEL_4K, used),
            (LEVEL_2M, large),
            (LEVEL_1G, self.large_pages(LEVEL_1G)),
        ):
            for page, use in uses.items():
                if use.type != PT_TDR:
                    owned[use.owner] = owned.get(use.owner, 0) + LEVEL_PAGES[level]
                    if use.owner not in used or used[use.owner].type != PT_TDR:
                        found.append(
                            f"page {page << PAGE_SHIFT:#x} ({PAGE_TYPE_NAMES[use.type]}) belongs "
                            f"to {use.owner << PAGE_SHIFT:#x}, which is no TDR"
                        )
        for page in _tdrs(used):
            children = self._module.tds.at(page).children.load()
            if children != owned.get(page, 0):
                found.append(
                    f"TD at {page << PAGE_SHIFT:#x}: CHLDCNT {children}, owns "
                    f"{owned.get(page, 0)} pages"
                )
        return found


def _tdrs(used: dict[int, Use]) -> list[int]:
    """Those of the pages in use that are TDRs, ascending as these are."""
    return [page for page, use in used.items() if use.type == PT_TDR]


def _use(entry: int) -> Use:
    return Use(entry & TYPE_MASK, entry >> OWNER_SHIFT)
