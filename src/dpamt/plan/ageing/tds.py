"""What the ageing simulation keeps of a TD: its pages by 2M range; no behaviour."""

from array import array

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_1G, PAGES_PER_2M

RANGES_PER_1G = PAGES_PER_1G // PAGES_PER_2M


class Vcpu:
    """A VCPU: its control pages (TDVPR, then TDCX) and its two pools of free pages."""

    __slots__ = ("control", "pamt_cache", "sept_cache")

    def __init__(self, control: list[int]) -> None:
        self.control = control
        self.sept_cache: list[int] = []
        self.pamt_cache: list[int] = []


class Part:
    """A 2M range that is not simply one folio mapped as a whole.

    ``pages`` are the frames of single pages by slot, 0 for none; with a folio it is not used.
    ``held`` is guest_memfd's count: single pages, or pages of the folio that were not punched.
    """

    __slots__ = ("held", "mapped", "pages", "punched")

    def __init__(self, mapped: int, held: int, folio: bool) -> None:
        self.mapped = bytearray([mapped]) * PAGES_PER_2M
        self.punched = bytearray(PAGES_PER_2M) if folio else None
        self.pages = None if folio else array("I", bytes(4 * PAGES_PER_2M))
        self.held = held


class Td:
    """A TD: ``memory`` bytes, a multiple of 2 MiB; ``huge`` gives it 2M folios.

    By 2M range: ``folio`` is the region that backs it (0: none), ``table`` its S-EPT page (0:
    none), ``large`` 1 where it is mapped at 2M, ``parts`` what is neither empty nor wholly mapped.
    A range with folio and table and no part is mapped wholly at 4K.
    """

    __slots__ = (
        "control",
        "folio",
        "huge",
        "large",
        "parts",
        "ranges",
        "table",
        "upper_1g",
        "upper_512g",
        "vcpus",
    )

    def __init__(self, memory: int, huge: bool, control: list[int], vcpus: list[Vcpu]) -> None:
        self.ranges = memory // PAGES_PER_2M >> PAGE_SHIFT
        self.huge = huge
        self.control = control
        """TDR, then the TDCS pages."""
        self.vcpus = vcpus
        self.folio = array("I", bytes(4 * self.ranges))
        self.table = array("I", bytes(4 * self.ranges))
        self.large = bytearray(self.ranges)
        self.parts: dict[int, Part] = {}
        gigabytes = -(-self.ranges // RANGES_PER_1G)
        self.upper_1g = [0] * gigabytes
        """S-EPT page below each 1G entry."""
        self.upper_512g = [0] * -(-gigabytes // RANGES_PER_1G)
