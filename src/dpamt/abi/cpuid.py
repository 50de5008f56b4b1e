"""CPUID as a TD sees it: one row for each leaf and subleaf that the TDX module virtualises.

    MNG.RD field code of a CPUID value:
        0 element (0: EAX and EBX, 1: ECX and EDX), 7:1 subleaf, 8 no subleaf (7:1 all ones),
        15:9 leaf 6:0, 16 leaf bit 31, 23:17 must be 0

Each register bit is one of these: 0 for every TD (``fixed0``; or answered at the time of CPUID), 1
for every TD (``fixed1``), what TD_PARAMS says (``config``), what the processor has if TD_PARAMS
allows it (``allow``), what the processor has (all others).  ``demanded`` are the bits without which
TDH.SYS.INIT refuses a processor.

The rows are those of the 2.0 line; single bits differ between releases.
Source: Intel TDX module source (open release), 2.0 line [cpuid_configurations.c, metadata_td.c,
tdh_mng_init.c].
"""

from typing import Final, NamedTuple

CpuidValues = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

NO_SUBLEAF: Final = 0xFFFF_FFFF
"""Subleaf of a leaf that has none."""
_ALL: Final = 0xFFFF_FFFF
_NONE: Final[CpuidValues] = (0, 0, 0, 0)
_ZERO: Final[CpuidValues] = (_ALL, _ALL, _ALL, _ALL)

CPUID_VERSION: Final = 1
CPUID_MONITOR: Final = 5
CPUID_FEATURES: Final = 7
CPUID_PERFMON: Final = 0xA
CPUID_X2APIC_TOPOLOGY: Final = 0xB
CPUID_XSTATE: Final = 0xD
CPUID_PROCESSOR_TRACE: Final = 0x14
CPUID_TSC: Final = 0x15
CPUID_KEY_LOCKER: Final = 0x19
CPUID_LBR: Final = 0x1C
CPUID_TILES: Final = 0x1D
CPUID_TOPOLOGY: Final = 0x1F
CPUID_PERFMON_EXTENDED: Final = 0x23
CPUID_ADDRESS_WIDTHS: Final = 0x8000_0008

TOPOLOGY_LEVELS: Final = 6
"""Subleaves of CPUID 0x1F that TD_PARAMS configures."""
LEVEL_TYPE_SHIFT: Final = 8
"""ECX of CPUID 0xB and 0x1F: 7:0 subleaf, 15:8 type of the level."""
LEVEL_TYPE_SMT: Final = 1
LEVEL_TYPE_CORE: Final = 2


class CpuidRow(NamedTuple):
    """A leaf and subleaf; ``configurable`` rows have a place in TD_PARAMS."""

    leaf: int
    subleaf: int
    demanded: CpuidValues
    fixed1: CpuidValues
    fixed0: CpuidValues
    config: CpuidValues
    allow: CpuidValues
    configurable: bool

    @property
    def id(self) -> int:
        """As SYS.RD names it, and a failed MNG.INIT in RCX: subleaf in 63:32, leaf in 31:0."""
        return self.subleaf << 32 | self.leaf


def _row(
    leaf: int,
    subleaf: int = NO_SUBLEAF,
    *,
    demanded: CpuidValues = _NONE,
    fixed1: CpuidValues = _NONE,
    fixed0: CpuidValues = _NONE,
    config: CpuidValues | None = None,
    allow: CpuidValues | None = None,
) -> CpuidRow:
    configurable = config is not None or allow is not None
    return CpuidRow(
        leaf, subleaf, demanded, fixed1, fixed0, config or _NONE, allow or _NONE, configurable
    )


def _cache(subleaf: int, demanded: CpuidValues) -> CpuidRow:
    return _row(
        4,
        subleaf,
        demanded=demanded,
        fixed0=(0x3C00, 0, 0, 0xFFFFFFF8),
        config=(0xFFFFC3FF, 0xFFFFF000, _ALL, 7),
    )


def _level(leaf: int, subleaf: int, configurable: bool) -> CpuidRow:
    config = (0x1F, 0xFFFF, 0xFFFF, 0) if configurable else None
    return _row(leaf, subleaf, fixed0=(0xFFFFFFE0, 0xFFFF0000, 0xFFFF0000, _ALL), config=config)


def _tlb(subleaf: int) -> CpuidRow:
    return _row(0x18, subleaf, config=(0, 0, 0, 0x3FFC000))


CPUID_ROWS: Final[tuple[CpuidRow, ...]] = (
    _row(
        CPUID_VERSION,
        demanded=(0, 0x800, 0x47FAA217, 0x1FA9FBFF),
        fixed1=(0, 0, 0x80000000, 0x200),
        fixed0=(0xF000C000, 0xFF0000FF, 0x8010060, 0x40120400),
        config=(0xFFF3FFF, 0xFF0000, 0, 0),
        allow=(0, 0, 0x31044D88, 0xB8445080),
    ),
    _cache(0, (0, 0x3F, 0, 0)),
    _cache(1, (0, 0x3F, 0, 0)),
    _cache(2, (0, 0x3F, 0, 0)),
    _cache(3, (0x60, 0x3F, 0, 0)),
    _row(
        CPUID_FEATURES,
        0,
        demanded=(2, 0x219424C3, 0x99000000, 0xFC080400),
        fixed0=(0, 0x404006, 0x643E8010, 0x2298C3),
        allow=(0, 0xDC2B9B18, 0x2417F65, 0x4005411C),
    ),
    _row(
        CPUID_FEATURES,
        1,
        fixed0=(0xFB57E200, _ALL, _ALL, 0xFFFDBBCF),
        allow=(0x4A81DBF, 0, 0, 0x24430),
    ),
    _row(CPUID_PERFMON, demanded=(0x800, 0, 0, 0x8000), fixed0=(0, 0, 0, 0xFFFF6000), allow=_NONE),
    _row(CPUID_LBR, allow=(0xFF, 0, 0, 0)),
    _row(
        CPUID_ADDRESS_WIDTHS,
        demanded=(0, 0x200, 0, 0),
        fixed0=(0, 0xFFFFFDFF, _ALL, _ALL),
        config=(0xFF, 0, 0, 0),
        allow=(0, 0x200, 0, 0),
    ),
    _row(
        0,
        demanded=(0, 0x756E6547, 0x6C65746E, 0x49656E69),
        fixed1=(0x23, 0, 0, 0),
        fixed0=(0xFFFFFFDC, 0, 0, 0),
    ),
    _row(3, fixed0=_ZERO),
    _row(4, 4, fixed0=_ZERO),
    _row(6, fixed1=(4, 0, 0, 0), fixed0=(0xFFFFFFFB, _ALL, _ALL, _ALL)),
    _row(
        CPUID_FEATURES,
        2,
        demanded=(0, 0, 0, 0x17),
        fixed0=(_ALL, _ALL, _ALL, 0xFFFFFFC0),
        allow=(0, 0, 0, 0x28),
    ),
    _row(8, fixed0=_ZERO),
    _row(CPUID_XSTATE, 0, demanded=(3, 0, 0, 0), fixed0=(0xFFF9FD18, _ALL, 0, _ALL)),
    _row(
        CPUID_XSTATE,
        1,
        demanded=(0xF, 0, 0x1800, 0),
        fixed0=(0xFFFFFFE0, _ALL, 0xFFFF26FF, _ALL),
    ),
    *(_row(CPUID_XSTATE, bit, fixed0=(0, 0, 0, _ALL)) for bit in range(2, 19)),
    _row(0xE, fixed0=_ZERO),
    _row(0x11, fixed0=_ZERO),
    _row(0x12, fixed0=_ZERO),
    _row(0x13, fixed0=_ZERO),
    _row(
        CPUID_PROCESSOR_TRACE,
        0,
        demanded=(1, 0, 0, 0),
        fixed0=(0, 0xFFFFFE00, 0x7FFFFFF0, _ALL),
    ),
    _row(CPUID_PROCESSOR_TRACE, 1, fixed0=(0xFFF8, 0, _ALL, _ALL)),
    _row(CPUID_TSC, fixed1=(1, 0, 25_000_000, 0), fixed0=(0xFFFFFFFE, 0, 0xFE8287BF, _ALL)),
    _row(CPUID_KEY_LOCKER, fixed0=_ZERO, allow=_NONE),
    _row(CPUID_TILES, 0),
    _row(CPUID_TILES, 1),
    _row(0x1E),
    *(_level(CPUID_TOPOLOGY, level, True) for level in range(TOPOLOGY_LEVELS)),
    _row(0x20, fixed0=_ZERO),
    _row(
        0x21,
        0,
        fixed1=(0, 0x65746E49, 0x20202020, 0x5844546C),
        fixed0=(_ALL, 0x9A8B91B6, 0xDFDFDFDF, 0xA7BBAB93),
    ),
    _row(0x8000_0000, fixed1=(0x8000_0008, 0, 0, 0), fixed0=(0x7FFFFFF7, _ALL, _ALL, _ALL)),
    _row(
        0x8000_0001,
        demanded=(0, 0, 0x121, 0x2C100800),
        fixed0=(_ALL, _ALL, 0xFFFFFEDE, 0xD3EFFFFF),
    ),
    _row(0x8000_0006, fixed1=(0, 0, 0x7040, 0), fixed0=(_ALL, _ALL, 0x8FBF, _ALL)),
    _row(0x8000_0007, demanded=(0, 0, 0, 0x100), fixed0=(_ALL, _ALL, _ALL, 0xFFFFFEFF)),
    _row(0x22, fixed0=_ZERO),
    _row(CPUID_PERFMON_EXTENDED, 0, fixed0=(0xFFFFFFF0, 0, _ALL, _ALL), allow=(0xF, 0, 0, 0)),
    _row(CPUID_PERFMON_EXTENDED, 1, fixed0=(0, 0, _ALL, _ALL)),
    _row(CPUID_PERFMON_EXTENDED, 2, fixed0=_ZERO),
    _row(CPUID_PERFMON_EXTENDED, 3, fixed0=(0, _ALL, _ALL, _ALL)),
    _row(CPUID_MONITOR, fixed0=(0xFFFF0000, 0xFFFF0000, 0xFFFFFFFC, 0)),
    _level(CPUID_X2APIC_TOPOLOGY, 0, False),
    _level(CPUID_X2APIC_TOPOLOGY, 1, False),
    _row(CPUID_X2APIC_TOPOLOGY, 2, fixed0=(_ALL, _ALL, 0xFFFFFF00, _ALL)),
    _row(0x1A, fixed0=(0, _ALL, _ALL, _ALL)),
    *(_tlb(subleaf) for subleaf in range(4)),
    _row(2, fixed1=(0xFEFF01, 0, 0, 0), fixed0=(0xFF0100FE, _ALL, _ALL, _ALL)),
    *(_tlb(subleaf) for subleaf in range(4, 9)),
    _row(
        0x8000_0002,
        fixed1=(0x65746E49, 0x58204454, 0x6C202020, 0),
        fixed0=(0x9A8B91B6, 0xA7DFBBAB, 0x93DFDFDF, _ALL),
    ),
)
"""In the order of the module's own table, which is that of MNG.RD's next field."""

CPUID_INDEX: Final[dict[tuple[int, int], int]] = {
    (row.leaf, row.subleaf): index for index, row in enumerate(CPUID_ROWS)
}
"""(Leaf, subleaf) to its place in the table."""

_CONFIG_ORDER: Final = (
    *((row.leaf, row.subleaf) for row in CPUID_ROWS[:10]),
    (CPUID_FEATURES, 2),
    (CPUID_PERFMON_EXTENDED, 0),
    *((CPUID_TOPOLOGY, level) for level in range(TOPOLOGY_LEVELS)),
    (CPUID_KEY_LOCKER, NO_SUBLEAF),
    *((0x18, subleaf) for subleaf in range(9)),
)
CPUID_CONFIG: Final[tuple[CpuidRow, ...]] = tuple(
    CPUID_ROWS[CPUID_INDEX[place]] for place in _CONFIG_ORDER
)
"""The configurable rows, in the order of CPUID_CONFIG_LEAVES and of TD_PARAMS."""

CPUID_FIXED0_BITMAP: Final = 0x0380_0005_08CF_D308
"""Leaves that are 0 for every TD: bit n for leaf n; from bit 52 on, leaves from 0x80000000 on."""
_EXTENDED_BIT: Final = 52
_EXTENDED: Final = 0x8000_0000

XfamMasks = dict[int, CpuidValues]
"""XFAM bit to the CPUID bits that are 0 in a TD without it."""

_AVX512: Final[CpuidValues] = (0, 0xDC230000, 0x5842, 0x80010C)
_CET: Final[CpuidValues] = (0, 0, 0x80, 0x100000)
_AMX: Final[CpuidValues] = (0, 0, 0, 0x3400000)

CPUID_XFAM: Final[dict[tuple[int, int], XfamMasks]] = {
    (CPUID_VERSION, NO_SUBLEAF): {2: (0, 0, 0x30001000, 0)},
    (CPUID_FEATURES, 0): {
        2: (0, 0x20, 0x600, 0),
        5: _AVX512,
        6: _AVX512,
        7: _AVX512,
        8: (0, 0x2000000, 0, 0),
        9: (0, 0, 8, 0),
        11: _CET,
        12: _CET,
        14: (0, 0, 0, 0x20),
        15: (0, 0, 0, 0x80000),
        17: _AMX,
        18: _AMX,
    },
    (CPUID_FEATURES, 1): {
        2: (0x800010, 0, 0, 0x430),
        **dict.fromkeys((5, 6, 7), (0x21, 0, 0, 0)),
        **dict.fromkeys((17, 18), (0x200000, 0, 0, 0)),
    },
    (CPUID_XSTATE, 0): {
        2: (4, 0, 0, 0),
        **dict.fromkeys((5, 6, 7), (0xE0, 0, 0, 0)),
        9: (0x200, 0, 0, 0),
        **dict.fromkeys((17, 18), (0x60000, 0, 0, 0)),
    },
    (CPUID_XSTATE, 1): {
        8: (0, 0, 0x100, 0),
        **dict.fromkeys((11, 12), (0, 0, 0x1800, 0)),
        14: (0, 0, 0x4000, 0),
        15: (0, 0, 0x8000, 0),
    },
}
"""Rows that depend on XFAM bit by bit."""


def is_cpuid_fixed0(leaf: int) -> bool:
    """Whether every register of that leaf is 0 for every TD, by :data:`CPUID_FIXED0_BITMAP`."""
    bit = leaf - _EXTENDED + _EXTENDED_BIT if leaf >= _EXTENDED else leaf
    limit = 64 if leaf >= _EXTENDED else _EXTENDED_BIT
    return 0 <= bit < limit and CPUID_FIXED0_BITMAP >> bit & 1 != 0


_ELEMENT: Final = 1
_SUBLEAF_SHIFT: Final = 1
_SUBLEAF_MASK: Final = 0x7F
_NO_SUBLEAF: Final = 1 << 8
_LEAF_SHIFT: Final = 9
_LEAF_MASK: Final = 0x7F
_LEAF_31: Final = 1 << 16
CPUID_CODE_RESERVED: Final = 0xFE_0000
"""Bits of a CPUID field code that must be 0."""


def cpuid_of_code(code: int) -> tuple[int, int, int]:
    """(Leaf, subleaf, element) that a field code names; :data:`NO_SUBLEAF` where there is none."""
    leaf = code >> _LEAF_SHIFT & _LEAF_MASK | (_EXTENDED if code & _LEAF_31 else 0)
    subleaf = NO_SUBLEAF if code & _NO_SUBLEAF else code >> _SUBLEAF_SHIFT & _SUBLEAF_MASK
    return leaf, subleaf, code & _ELEMENT


def code_of_cpuid(leaf: int, subleaf: int, element: int) -> int:
    """The inverse of :func:`cpuid_of_code`."""
    place = (
        _NO_SUBLEAF | _SUBLEAF_MASK << _SUBLEAF_SHIFT
        if subleaf == NO_SUBLEAF
        else (subleaf & _SUBLEAF_MASK) << _SUBLEAF_SHIFT
    )
    return (
        (leaf & _LEAF_MASK) << _LEAF_SHIFT
        | (_LEAF_31 if leaf & _EXTENDED else 0)
        | place
        | element & _ELEMENT
    )
