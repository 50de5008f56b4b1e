"""Whether a scenario of a vector file is written as docs/vectors.md says: every key and its kind.

Only the shape is looked at, so a fault is reported with its file, line and field before anything
is replayed.  What a shape cannot show (a lock that is held already) comes out in the replay.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK, RAX_VERSION_MASK
from dpamt.abi.pages import LEVEL_NAMES, PAGE_TYPE_NAMES
from dpamt.abi.registers import REGISTER_NAMES, U64_MASK
from dpamt.abi.states import MAX_HKIDS
from dpamt.errors import InputError

Json = dict[str, Any]

Check = Callable[[Any, str], None]
"""Refuses a value, naming the place (file, line, field) it stands at."""

ACCEPT: Final = "TDG.MEM.PAGE.ACCEPT"

_LEAVES: Final = frozenset(LEAF_NAMES.values()) | {ACCEPT}
_PAMT_LEVELS: Final = LEVEL_NAMES[:3]
_SHOWN: Final = 40


def refuse(value: Any, place: str, expected: str) -> InputError:
    """The error of a value that is not what its place needs."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
    return InputError(f"{place}: {shown}; expected {expected}")


def number(value: Any, place: str) -> int:
    """A number of a vector file: an integer, or a string in hexadecimal; else InputError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise refuse(value, place, "a number or a hexadecimal string")


def check_scenario(data: Json, place: str) -> None:
    """Refuse a scenario that is not one."""
    _keys(data, place, {"id": _text, "title": _text, "setup": _setup})
    _list_of(_judged_call)(data.get("calls"), f"{place}: calls")
    _final(data.get("final"), f"{place}: final")


def check_race(data: Json, place: str) -> None:
    """Refuse a scenario of two calls at once that is not one.  No third CPU takes part in it."""
    check_scenario({**data, "final": {}}, place)
    if data["setup"].get("held"):
        raise refuse(data["setup"]["held"], f"{place}: setup.held", "no lock held, beside a race")
    for index, call in enumerate(data["calls"]):
        if call["leaf"][:1] == "@":
            raise refuse(call["leaf"], f"{place}: calls[{index}].leaf", "a leaf, before a race")
    needed = {"a": _plain_call, "b": _plain_call, "outcomes": _list_of(_outcome, least=1)}
    _keys(data, place, needed)


# Kinds of values.


def _text(value: Any, place: str) -> None:
    if not isinstance(value, str):
        raise refuse(value, place, "a text")


def _register(value: Any, place: str) -> None:
    if not 0 <= number(value, place) <= U64_MASK:
        raise refuse(value, place, "an unsigned 64-bit number")


def _step(value: Any, place: str) -> None:
    number(value, place)


def _whole(low: int, high: int) -> Check:
    def check(value: Any, place: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise refuse(value, place, f"a whole number from {low} to {high}")

    return check


def _truth(value: Any, place: str) -> None:
    if not isinstance(value, bool):
        raise refuse(value, place, "true or false")


def _anything(_value: Any, _place: str) -> None:
    """Read by people only."""


def _one_of(words: Iterable[str]) -> Check:
    known = tuple(words)

    def check(value: Any, place: str) -> None:
        if value not in known:
            raise refuse(value, place, f"one of {', '.join(known)}")

    return check


def _list_of(item: Check, least: int = 0) -> Check:
    def check(value: Any, place: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise refuse(value, place, "a list" + (" that is not empty" if least else ""))
        for index, member in enumerate(value):
            item(member, f"{place}[{index}]")

    return check


def _pair(value: Any, place: str) -> None:
    if not isinstance(value, list) or len(value) != 2:
        raise refuse(value, place, "a pair of numbers")
    _register(value[0], f"{place}[0]")
    _register(value[1], f"{place}[1]")


def _keys(value: Any, place: str, needed: dict[str, Check]) -> Json:
    """An object with these keys at least."""
    if not isinstance(value, dict):
        raise refuse(value, place, "an object")
    for key, check in needed.items():
        if key not in value:
            raise InputError(f"{place}: no {key!r}; expected {', '.join(needed)}")
        check(value[key], _inside(place, key))
    return value


def _only(value: Any, place: str, needed: dict[str, Check], may: dict[str, Check]) -> Json:
    """An object with the keys ``needed``, those of ``may``, and no other."""
    _keys(value, place, needed)
    for key, member in value.items():
        if key in may:
            may[key](member, _inside(place, key))
        elif key not in needed:
            raise InputError(f"{place}: key {key!r}; expected {', '.join((*needed, *may))}")
    checked: Json = value
    return checked


def _inside(place: str, key: str) -> str:
    """The place of a key; the first field after ``file:line`` has no dot."""
    return f"{place}.{key}" if ": " in place else f"{place}: {key}"


# Set-up.

_TDMR: Final[dict[str, Check]] = {
    **dict.fromkeys(
        (
            "base",
            "size",
            "pamt_1g_base",
            "pamt_1g_size",
            "pamt_2m_base",
            "pamt_2m_size",
            "pamt_4k_base",
            "pamt_4k_size",
            "initialized_to",
        ),
        _register,
    ),
    "reserved": _list_of(_pair),
}


def _tdmr(value: Any, place: str) -> None:
    _only(value, place, _TDMR, {})


def _setup(value: Any, place: str) -> None:
    setup = _keys(
        value,
        place,
        {
            "max_pa_bits": _whole(32, 52),
            "hkid_start_bit": _whole(32, 52),
            "private_hkids": _pair,
            "sys_state": _one_of(("READY", "SYSINIT_DONE")),
            "cmrs": _list_of(_pair, least=1),
        },
    )
    if setup["hkid_start_bit"] > setup["max_pa_bits"]:
        raise refuse(setup["hkid_start_bit"], f"{place}.hkid_start_bit", "at most max_pa_bits")
    first, last = (number(keyid, place) for keyid in setup["private_hkids"])
    if not 0 < first <= last < MAX_HKIDS:
        raise refuse(
            setup["private_hkids"], f"{place}.private_hkids", f"first and last, below {MAX_HKIDS}"
        )
    if setup["sys_state"] == "READY":
        _keys(
            setup,
            place,
            {"dynamic_pamt": _truth, "global_hkid": _register, "tdmrs": _list_of(_tdmr, 1)},
        )
    _list_of(_pair)(setup.get("memory", []), f"{place}.memory")
    _list_of(_lock)(setup.get("held", []), f"{place}.held")


# Calls.

_TD: Final[dict[str, Check]] = {"tdr": _register}
_LOCKS: Final[dict[str, dict[str, Check]]] = {
    "KOT": {},
    "TDMR": {"index": _whole(0, 63)},
    "OP_STATE": _TD,
    "SEPT_TREE": _TD,
    "TD_EPOCH": _TD,
    "SEPT_ENTRY": {**_TD, "gpa": _register, "septlevel": _whole(0, 4)},
}
_STEPS: Final[dict[str, dict[str, Check]]] = {
    "@EPOCH_REFCOUNT": {**_TD, "index": _whole(0, 1), "value": _register},
    "@INTERRUPT_PENDING": {"value": _whole(0, 1)},
    "@TREE_LOCK_CONTENDED_NEXT": {},
    "@SET_4K_TYPE": {"hpa": _register, "type": _one_of(PAGE_TYPE_NAMES.values())},
}
_HOLD: Final = ("@HOLD", "@RELEASE")
_REGISTERS: Final[dict[str, Check]] = dict.fromkeys(REGISTER_NAMES, _register)


def _lock(value: Any, place: str) -> None:
    """A lock to hold: a PAMT entry by level and address, or one by its name."""
    lock = _keys(value, place, {"mode": _one_of(("shared", "exclusive", "host_priority"))})
    if "level" in lock:
        _keys(lock, place, {"level": _one_of(_PAMT_LEVELS), "hpa": _register})
    else:
        _keys(lock, place, {"lock": _one_of(_LOCKS)})
        _keys(lock, place, _LOCKS[lock["lock"]])


def _leaf(value: Any, place: str) -> None:
    if isinstance(value, str):
        if value in _LEAVES:
            return
        if value[:1] == "#" and value[1:].isdecimal() and int(value[1:]) <= RAX_LEAF_MASK:
            return
    raise refuse(value, place, "the name of a leaf, #number, or a step of another CPU (@...)")


def _call(value: Any, place: str) -> None:
    """A call without an answer, or a step of another CPU."""
    call = _keys(value, place, {"leaf": _text})
    name = call["leaf"]
    if name in _HOLD:
        _lock(call, place)
    elif name[:1] == "@":
        _one_of((*_HOLD, *_STEPS))(name, f"{place}.leaf")
        _keys(call, place, _STEPS[name])
    else:
        _leaf(name, f"{place}.leaf")
        needed = {"leaf": _text} | (_TD if name == ACCEPT else {})
        may = {**_REGISTERS, "version": _whole(0, RAX_VERSION_MASK), "comment": _anything}
        _only(call, place, needed, may | {"expect": _expect, "repeat": _repeat})


def _judged_call(value: Any, place: str) -> None:
    _call(value, place)
    if value["leaf"][:1] != "@":
        _keys(value, place, {"expect": _expect})


def _plain_call(value: Any, place: str) -> None:
    """One of two calls at once: a leaf and its operands."""
    may = {**_REGISTERS, "version": _whole(0, RAX_VERSION_MASK), "comment": _anything}
    _only(value, place, {"leaf": _leaf}, may)
    if value["leaf"] == ACCEPT:
        raise refuse(ACCEPT, f"{place}.leaf", "a SEAMCALL leaf")


def _expect(value: Any, place: str) -> None:
    told: dict[str, Check] = {
        "status": _register,
        "fatal": _truth,
        "stale": _list_of(_one_of(REGISTER_NAMES)),
        "status_name": _text,
        "operand": _text,
        "detail": _step,
        "fatal_error_id": _step,
        "comment": _anything,
    }
    expect = _only(value, place, {}, {**_REGISTERS, **told})
    if not expect.get("fatal"):
        _keys(expect, place, {"status": _register})


def _repeat(value: Any, place: str) -> None:
    steps = _steps_of(REGISTER_NAMES)
    expected = _steps_of((*REGISTER_NAMES, "status"))
    needed: dict[str, Check] = {"count": _whole(1, 1 << 32), "step": steps}
    _only(value, place, needed, {"expect_step": expected})


def _steps_of(names: Iterable[str]) -> Check:
    may: dict[str, Check] = dict.fromkeys(names, _step)

    def check(value: Any, place: str) -> None:
        _only(value, place, {}, may)

    return check


# What is left behind.


def _entry(value: Any, place: str) -> None:
    needed: dict[str, Check] = {
        "level": _one_of(_PAMT_LEVELS),
        "hpa": _register,
        "type": _one_of(PAGE_TYPE_NAMES.values()),
    }
    numbers = ("owner", "bepoch", "lock", "hpa0", "hpa1", "count")
    _only(value, place, needed, {**dict.fromkeys(numbers, _register), "n": _whole(1, 512)})


def _td(value: Any, place: str) -> None:
    needed: dict[str, Check] = {"tdr": _register, "lifecycle": _text}
    numbers = ("num_tdcx", "chldcnt", "op_state", "td_epoch")
    _only(value, place, needed, dict.fromkeys(numbers, _register))


def _rdmd(value: Any, place: str) -> None:
    needed: dict[str, Check] = {"page": _register, "level": _one_of(_PAMT_LEVELS)}
    may: dict[str, Check] = {"status": _register, "status_name": _text}
    _only(value, place, needed, {**_REGISTERS, **may, "stale": _list_of(_one_of(REGISTER_NAMES))})


def _final(value: Any, place: str) -> None:
    final = _keys(value, place, {})
    for key, item in (("entries", _entry), ("bitmap", _pair), ("tds", _td), ("pamt", _rdmd)):
        _list_of(item)(final.get(key, []), f"{place}.{key}")


# Outcomes of two calls at once.


def _outcome(value: Any, place: str) -> None:
    outcome = _only(value, place, {"a": _end, "b": _end}, {"sequential": _truth, "final": _ending})
    if not any(outcome[call].get("fatal") for call in "ab"):
        _keys(outcome, place, {"final": _ending})


def _end(value: Any, place: str) -> None:
    if value != {"unfinished": True}:
        _expect(value, place)


def _node(value: Any, place: str) -> None:
    _only(value, place, dict.fromkeys(("hpa", "count", "hpa0", "hpa1"), _register), {})


def _ending(value: Any, place: str) -> None:
    pages = _list_of(_register)
    needed = {
        "nodes": _list_of(_node),
        "leaves_2m": pages,
        "bitmap": pages,
    }
    _only(value, place, needed, {})
