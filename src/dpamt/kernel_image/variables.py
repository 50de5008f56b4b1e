"""From an address in a variable to its name in C: ``regions[5].count``, and names of its values.

Read from DWARF (debugging information standard, version 5: chapters 4.1 "Data Object Entries" and
5 "Type Entries") of the unit whose code reaches the variable: there it is defined or declared, with
its type.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from dpamt.kernel_image.elf import Symbol, plain_name
from dpamt.kernel_image.lines import Lines

_ALIASES: Final = frozenset(
    {"DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_atomic_type"}
)
_RECORDS: Final = frozenset({"DW_TAG_structure_type", "DW_TAG_union_type", "DW_TAG_class_type"})
_WHOLE: Final = frozenset(
    {
        *("spinlock", "spinlock_t", "raw_spinlock", "raw_spinlock_t", "rwlock_t", "mutex"),
        *("atomic_t", "atomic64_t", "atomic_long_t"),
    }
)
"""Types that stand for one thing, however they are made (Linux 7.3.4 include/linux/types.h,
spinlock_types.h, rwlock_types.h, mutex_types.h)."""
_DEEPEST: Final = 32


class Named(NamedTuple):
    """A part of a variable."""

    name: str
    values: tuple[tuple[int, str], ...]
    """Of an enumeration: value and enumerator."""


class Variables:
    """The variables of one image; an image without DWARF has none."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._units: dict[tuple[int, int], dict[str, Any]] = {}
        self._known: dict[tuple[str, int, int, tuple[int, int]], Named | None] = {}

    def part(self, symbol: Symbol, offset: int, size: int, site: int) -> Named | None:
        """What lies ``offset`` bytes into a variable, ``size`` bytes (0: a lock, however large).

        ``site`` is the address of code that reaches it.  None: DWARF does not say.
        """
        cu = self._lines.unit_of(site)
        if cu is None:
            return None
        key = symbol.name, offset, size, _key(cu)
        if key not in self._known:
            self._known[key] = self._find(cu, symbol.name, offset, size)
        return self._known[key]

    def _find(self, cu: Any, name: str, offset: int, size: int) -> Named | None:
        variables = self._units.get(_key(cu))
        if variables is None:
            variables = self._units[_key(cu)] = dict(_variables(cu))
        die = variables.get(plain_name(name))
        found = None if die is None else _part(die, offset, size, _DEEPEST)
        return None if found is None else Named(name + found.name, found.values)


def _key(cu: Any) -> tuple[int, int]:
    """Of a unit: its file and where it begins there."""
    return id(cu.dwarfinfo), cu.cu_offset


def _variables(cu: Any) -> Iterator[tuple[str, Any]]:
    """Name and DIE of each variable of a unit that has a type."""
    for die in cu.get_top_DIE().iter_children():
        if die.tag == "DW_TAG_variable" and {"DW_AT_name", "DW_AT_type"} <= set(die.attributes):
            yield _text(die), die


def _text(die: Any) -> str:
    attribute = die.attributes.get("DW_AT_name")
    return "" if attribute is None else str(attribute.value.decode("utf-8", "replace"))


def _part(die: Any, offset: int, size: int, deepest: int) -> Named | None:
    """The part of what a DIE declares; its name is what comes behind the whole's."""
    kind = _type_of(die)
    whole = kind is not None and _text(kind) in _WHOLE
    while kind is not None and kind.tag in _ALIASES:
        kind = _type_of(kind)
        whole = whole or (kind is not None and _text(kind) in _WHOLE)
    if kind is None or deepest == 0:
        return None
    is_all = offset == 0 and (whole or _size_of(kind) == size)
    if kind.tag == "DW_TAG_enumeration_type":
        return Named("", tuple(_enumerators(kind))) if is_all else None
    if kind.tag == "DW_TAG_array_type":
        return _element(kind, offset, size, deepest)
    if kind.tag in _RECORDS and not whole:
        return _member(kind, offset, size, deepest)
    return Named("", ()) if is_all else None


def _member(kind: Any, offset: int, size: int, deepest: int) -> Named | None:
    for member in kind.iter_children():
        attributes = member.attributes
        if member.tag != "DW_TAG_member" or "DW_AT_data_bit_offset" in attributes:
            continue
        begins = attributes.get("DW_AT_data_member_location")
        begin = 0 if begins is None else begins.value
        inner = _type_of(member)
        if inner is None or not begin <= offset < begin + max(1, _size_of(inner)):
            continue
        found = _part(member, offset - begin, size, deepest - 1)
        if found is not None:
            name = _text(member)
            return Named(f".{name}{found.name}" if name else found.name, found.values)
    return None


def _element(kind: Any, offset: int, size: int, deepest: int) -> Named | None:
    """Of an array, whose outermost dimension comes first."""
    inner = _type_of(kind)
    each = 0 if inner is None else _size_of(inner)
    if not each:
        return None
    counts = _counts(kind)
    flat, rest = divmod(offset, each)
    index = ""
    for count in reversed(counts[1:]):
        if not count:
            return None
        flat, at = divmod(flat, count)
        index = f"[{at}]{index}"
    if counts and counts[0] and flat >= counts[0]:
        return None  # behind its end
    found = _part(kind, rest, size, deepest - 1)
    return None if found is None else Named(f"[{flat}]{index}{found.name}", found.values)


def _counts(kind: Any) -> list[int]:
    """Elements by dimension; 0: not said."""
    found = []
    for child in kind.iter_children():
        if child.tag == "DW_TAG_subrange_type":
            attributes = child.attributes
            bound, count = attributes.get("DW_AT_upper_bound"), attributes.get("DW_AT_count")
            given = 0 if bound is None else bound.value + 1
            found.append(given if count is None else count.value)
    return found


def _enumerators(kind: Any) -> Iterator[tuple[int, str]]:
    for child in kind.iter_children():
        if child.tag == "DW_TAG_enumerator":
            yield child.attributes["DW_AT_const_value"].value, _text(child)


def _type_of(die: Any) -> Any:
    return die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None


def _size_of(kind: Any) -> int:
    """Bytes of a type; 0: not said."""
    for _ in range(_DEEPEST):
        if "DW_AT_byte_size" in kind.attributes:
            return int(kind.attributes["DW_AT_byte_size"].value)
        if kind.tag == "DW_TAG_array_type":
            inner, size = _type_of(kind), 1
            for count in _counts(kind):
                size *= count
            return 0 if inner is None else size * _size_of(inner)
        if kind.tag == "DW_TAG_pointer_type":
            return 8
        inner = _type_of(kind) if kind.tag in _ALIASES else None
        if inner is None:
            return 0
        kind = inner
    return 0
