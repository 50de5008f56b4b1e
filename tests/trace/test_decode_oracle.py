"""The decoders held against a second one that cuts strings of digits (:mod:`naive_decode`)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi.exits import EXIT_REASON_NAMES
from dpamt.abi.leaf_table import LEAF_ROWS
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.errors import InputError
from dpamt.platform.lines import Line
from dpamt.trace.decode import DECODERS, Meaning, is_field_id, meanings, named, page_info_faults
from dpamt.trace.decode_details import details_of
from dpamt.trace.decode_input import read_value
from dpamt.trace.decode_log import Explained, decode_log
from dpamt.trace.decode_registers import FailedCall, register_meaning

from . import naive_decode as naive

TOP = (1 << 64) - 1
STATUSES = [int(text, 16) for text in naive.TABLES["status"].values()]
FIELDS = [int(known["id"], 16) for known in naive.TABLES["metadata_fields"].values()]
SMALL = st.integers(0, 8) | st.integers(0, 0xFFFF) | st.integers(0, 0xFFFFFFFF)


def flipped(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """Such a number with a few bits of it changed."""
    masks = st.lists(st.integers(0, 63).map(lambda bit: 1 << bit), max_size=3).map(sum)
    return st.tuples(numbers, masks).map(lambda pair: (pair[0] ^ pair[1]) & TOP)


STATUS = st.tuples(st.sampled_from(STATUSES), SMALL).map(lambda pair: pair[0] | pair[1])
INFO = st.tuples(st.integers(0, 1 << 40), st.integers(0, 7), st.sampled_from([0, 9, 18, 27, 36]))
PAGE_INFO = INFO.map(lambda part: (part[0] >> part[2] << part[2]) % 2**40 * 4096 + part[1])
VALUE = st.one_of(
    st.integers(0, TOP),
    flipped(STATUS),
    STATUS,
    flipped(st.sampled_from(FIELDS)),
    st.tuples(st.sampled_from(FIELDS), st.integers(0, 80)).map(sum),
    flipped(PAGE_INFO),
    PAGE_INFO,
    st.integers(0, 0x1_0000),
    flipped(st.sampled_from([0x8000FF00FFFF0000, 0x8000FF000000000D, 0x8000FF0000000006])),
    st.sampled_from([0, 1, 1 << 32, (1 << 32) - 1, TOP, TOP - 1, 0xFF << 40, 0xFFFF]),
)


@settings(max_examples=500)
@given(VALUE)
def test_each_kind_of_number(value: int) -> None:
    for kind, decode in DECODERS.items():
        text, facts = naive.BY_KIND[kind](value)
        assert decode(value) == Meaning(kind, text, facts)
    assert details_of(value) == naive.status(value)[1]["details_text"]
    assert page_info_faults(value) == naive.page_info(value)[1].get(
        "faults", ["reserved bits 0xfff0000000000ff8 set", "no such level"]
    )
    assert is_field_id(value) == naive.is_field_id(value)
    kinds = naive.kinds(value)
    assert meanings(value) == [Meaning(kind, *naive.BY_KIND[kind](value)) for kind in kinds]


def test_each_number_of_the_tables() -> None:
    numbers = [*naive.LEAF_NAME, *naive.OPERAND_NAME, *EXIT_REASON_NAMES, *STATUSES, *FIELDS]
    details = [status | low for status in STATUSES for low in (1, 2, 3, 4, 5, 0x102, 0x30201, 0x10)]
    for value in (*numbers, *range(700), *details):
        for kind, decode in DECODERS.items():
            assert decode(value) == Meaning(kind, *naive.BY_KIND[kind](value))


LEAF = st.sampled_from([*LEAF_ROWS]) | st.sampled_from(sorted(naive.LEAF_NAME)) | st.just(777)
FAILED = st.one_of(STATUS, st.sampled_from(STATUSES), st.just(0x8000020000000001))
ENTRY = st.tuples(
    st.sampled_from([0, 1 << 63]), st.sampled_from([0, 7, 0x30, 0xF7, 0x1000, 0x40200090])
).map(sum)
DETAILS = st.tuples(st.integers(0, 7), st.sampled_from([*naive.SEPT_STATE_NAME, 77]))
REGISTER = VALUE | ENTRY | DETAILS.map(lambda two: two[0] | two[1] << 8 | 1 << 16) | st.just(0)
REGISTERS = st.dictionaries(st.sampled_from(REGISTER_NAMES), REGISTER)


@settings(max_examples=600)
@given(st.none() | LEAF, st.sampled_from([0, 1 << 16, 5 << 40]), FAILED, REGISTERS)
def test_each_register(leaf: int | None, more: int, status: int, registers: dict[str, int]) -> None:
    rax = None if leaf is None else leaf | more
    for name, value in registers.items():
        told = register_meaning(FailedCall(rax, status), name, value, registers)
        text = naive.register(rax, status, name, value, registers)
        assert (told.kind, told.text) == (naive.register_kind(text), text)


def test_each_register_of_each_leaf() -> None:
    """Every format of an operand and of an output, with values at which its words change."""
    busy_entry, walk, cpuid = 0x8000020000000001, 0xC0000B0000000001, 0xC000090000000000
    values = (0, 1, 2, 5, 14, 0x10021, 0x40200001, 0x1_0000_0007, 0x80000001010000F7, 1 << 63, TOP)
    for leaf in (*LEAF_ROWS, 777, None):
        for status in (0xC000010000000001, busy_entry, walk, cpuid):
            for value in values:
                registers = dict.fromkeys(REGISTER_NAMES, value)
                for name in REGISTER_NAMES:
                    told = register_meaning(FailedCall(leaf, status), name, value, registers)
                    text = naive.register(leaf, status, name, value, registers)
                    assert (told.kind, told.text) == (naive.register_kind(text), text)


def test_the_facts_of_registers() -> None:
    walk = FailedCall(6, 0xC0000B0000000001)
    assert register_meaning(walk, "rcx", 7, {}).facts == {"entry": 7}
    facts = register_meaning(walk, "rdx", 0x28402, {}).facts
    assert facts == {"level": 2, "state": 0x84, "vm": 2}
    kinds = {register_meaning(walk, name, 9, {}).kind for name in ("rcx", "rdx")}
    assert kinds == {"sept-entry"}
    leaf = {name: number for number, name in naive.LEAF_NAME.items()}
    rdmd = FailedCall(leaf["TDH.PHYMEM.PAGE.RDMD"], 0xC000010000000001)
    told = [register_meaning(rdmd, name, 4, {}) for name in ("rcx", "rdx", "r8", "r9")]
    assert [one.facts for one in told] == [{"page_type": 4}, {}, {"level": 4}, {}]
    cpuid = FailedCall(leaf["TDH.SYS.INIT"], 0xC000090000000000)
    facts = register_meaning(cpuid, "rcx", 2 << 32 | 7, {}).facts
    assert facts == {"cpuid_leaf": 7, "cpuid_subleaf": 2}
    busy = FailedCall(leaf["TDH.MEM.PAGE.AUG"], 0x8000020000000001)
    assert register_meaning(busy, "rdx", 5 << 12, {"rdx": 5 << 12}).text == "TDR 0x5000"
    assert FailedCall(None, 0).leaf_name == "the leaf"
    assert FailedCall(777, 0).leaf_name == "leaf 777"
    assert FailedCall(6 | 1 << 16, 0).leaf_name == "TDH.MEM.PAGE.AUG"


def found(lines: list[str]) -> list[tuple[int, list[tuple[str, int, list[Meaning]]]]]:
    return [
        (line.number, [(item.name, item.value, item.meanings) for item in line.found])
        for line in decode_log(lines)
    ]


PREFIX = st.sampled_from(["", "[    1.5] ", "virt/tdx: ", "Nov 30 07:00:01 host kernel: tdx: "])
LEAF_FORMS = ("({0:#x})", "({0:#018x})", "{0}", "({0:d})", "[{0:#x}]", ": {0}", "{1}", "({2})")
GIVEN = st.lists(st.tuples(st.sampled_from(REGISTER_NAMES), VALUE), min_size=1, max_size=8)
FORMS = ("{0} {1:#018x}", "{0}: {1:#x}", "{0}={1:#x}", "{0} = {1:#x}")


def register_text(pairs: list[tuple[str, int]], form: str, upper: bool, two: bool) -> str:
    names = {"r8": "r08", "r9": "r09"} if two else {}
    shown = [(names.get(name, name), value) for name, value in pairs]
    return ", ".join(form.format(name.upper() if upper else name, value) for name, value in shown)


@settings(max_examples=300)
@given(PREFIX, LEAF, st.sampled_from(LEAF_FORMS), FAILED, GIVEN, st.sampled_from(FORMS), st.data())
def test_lines_that_the_kernel_writes(
    prefix: str,
    leaf: int,
    leaf_form: str,
    status: int,
    pairs: list[tuple[str, int]],
    form: str,
    data: st.DataObject,
) -> None:
    """What was written is what is read: the same call, status and registers, in their order."""
    upper, two, old = (data.draw(st.booleans()) for _ in range(3))
    name = naive.LEAF_NAME.get(leaf)
    if name is None and leaf_form in ("{1}", "({2})"):
        leaf_form = "({0:#x})"
    if old:
        head = f"{prefix}SEAMCALL failed: CPU 94: leaf {leaf}, error {status:#x}."
    else:
        shown = leaf_form.format(leaf, (name or "").replace(".", "_"), name)
        head = f"{prefix}SEAMCALL {shown} failed: {status:#018x}"
    registers = dict(pairs)
    text = register_text(list(registers.items()), form, upper, two)
    call: list[tuple[str, int, list[Meaning]]] = [
        ("SEAMCALL", leaf, [Meaning("leaf", *naive.leaf(leaf))]),
        ("RAX", status, [Meaning("status", *naive.status(status))]),
    ]
    if data.draw(st.booleans()):
        head = head.upper().replace("0X", "0x") if not old else head.replace("SEAM", "seam")
    after = [
        (key.upper(), value, naive.register(leaf, status, key, value, registers))
        for key, value in registers.items()
    ]
    for lines in ([head, f"{prefix}{text}"], [f"{head}, {text}"]):
        read = found(lines)
        assert [number for number, _ in read] == list(range(1, len(lines) + 1))
        everything = [item for _, items in read for item in items]
        assert everything[:2] == call
        assert [(key, value, one.text) for key, value, [one] in everything[2:]] == after


@given(PREFIX, VALUE, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(40, 51))
def test_the_line_of_a_td_that_ends(
    prefix: str, status: int, reason: int, keyid: int, shift: int
) -> None:
    address = keyid << shift if keyid << shift < 1 << 64 else 5
    line = (
        f"{prefix}kvm [13696]: TD exit {status:#x}, {reason} hkid {keyid:#x} hkid pa {address:#x}"
    )
    where = "not the KeyID in address bits"
    if keyid and address == keyid << shift:
        where = f"address bits of KeyID {keyid}: KeyIDs begin at bit {shift}"
    [(_, [rax, left, key, place])] = found([line])
    assert rax == ("RAX", status, [Meaning("status", *naive.status(status))])
    assert left == ("exit", reason, [Meaning("exit", *naive.exit_reason(reason))])
    assert key == ("hkid", keyid, [Meaning("keyid", f"KeyID {keyid} of the TD", {"keyid": keyid})])
    assert (place[:2], place[2][0].kind, place[2][0].text) == (("hkid pa", address), "keyid", where)
    known = {"shift": shift if keyid and address == keyid << shift else place[2][0].facts["shift"]}
    assert place[2][0].facts == known


BETWEEN = st.sampled_from([" ", ", ", ";", "\t", " ,; "])


@given(st.lists(VALUE, min_size=1, max_size=5), BETWEEN, st.booleans(), st.booleans())
def test_lines_of_numbers_alone(
    values: list[int], between: str, hexadecimal: bool, upper: bool
) -> None:
    words = [f"{value:#x}" if hexadecimal else str(value) for value in values]
    line = between.join(word.upper() if upper else word for word in words)
    meant = [
        ("", value, [Meaning(kind, *naive.BY_KIND[kind](value)) for kind in naive.kinds(value)])
        for value in values
    ]
    assert found([f"  {line}  "]) == [(1, meant)]
    assert found([f"{values[0]} {TOP + 1}"]) == []
    read = list(decode_log([line], lambda value: [Meaning("x", str(value))]))
    assert [item.meanings[0].text for item in read[0].found] == [str(value) for value in values]


@given(st.lists(VALUE, min_size=1, max_size=5))
def test_numbers_in_free_text(values: list[int]) -> None:
    """Only an error that there is, and a field of a class that is not 0, are shown."""
    line = "it said " + " and ".join(f"{value:#x}" for value in values) + " then"
    meant = []
    for value in values:
        text = f"{value:016x}"
        known = "0x" + text[:8] + "0" * 8 in naive.STATUS_NAME or text[4:6] == "ff"
        if text[0] in "89abcdef" and known:
            if value != TOP:
                meant.append(("", value, [Meaning("status", *naive.status(value))]))
        elif text[:2] != "00" and naive.is_field_id(value):
            meant.append(("", value, [Meaning("field", *naive.field(value))]))
    assert found([line]) == found([line.upper()]) == ([(1, meant)] if meant else [])


def test_registers_without_a_call_and_other_lines_between() -> None:
    field = 0x9100000100000008
    lines = ["RDX 0x9100000100000008 RCX 0xffff", "RCX 0x10000 alone"]
    assert found(lines)[0] == (1, [("RDX", field, [Meaning("field", *naive.field(field))])])
    call, told = "SEAMCALL (0x22) failed: 0xc000050500000000", "metadata field MAX_TDMRS, 2 bytes"
    register = f"RDX {field:#x}"
    for other in ("0x22", "TD exit 0x0, 2 hkid 0x1 hkid pa 0x0", "no number"):
        after = found([call, register, other, "R12 0x22"])
        assert after[1] == (2, [("RDX", field, [Meaning("field", *naive.field(field))])])
        assert [number for number, _ in after if number == 4] == []
        assert told == naive.field(field)[0]
    # A line keeps the number that it has in its file.
    numbered = [Line(70, call + "  ", True), Line(90, register, True)]
    assert [(line.number, line.text) for line in decode_log(numbered)] == [
        (70, call),
        (90, register),
    ]
    unknown = found(["SEAMCALL TDH_NO_SUCH failed: 0xc000010000000001", "RCX 0x5"])
    assert [[item[0] for item in items] for _, items in unknown] == [["RAX"], ["RCX"]]
    assert unknown[1][1][0][2] == [Meaning("register", "operand not known")]
    assert isinstance(next(decode_log(["0x22"])).found[0], Explained)


@given(st.integers(0, TOP))
def test_numbers_as_they_are_written(value: int) -> None:
    digits = f"{value:x}"
    assert read_value(f" {value:#x} ") == read_value(f"0X{digits.upper()}") == (None, value)
    assert read_value(f"0x{digits[:4]}_{digits[4:]}") == (None, value)
    assert read_value(str(value)) == (None, value)
    if len(digits) >= 9 and not digits.isdigit():
        assert read_value(digits) == read_value(digits.upper()) == (None, value)


def test_names_as_they_are_written() -> None:
    names = [*naive.STATUS_NAME.values(), *naive.LEAF_NAME.values(), *naive.OPERAND_NAME.values()]
    names += [*EXIT_REASON_NAMES.values(), *naive.TABLES["metadata_fields"]]
    for name in names:
        short = name.removeprefix("TDX_").removeprefix("TDH.")
        for text in (name, short, name.lower(), name.replace(".", "_"), f"EXIT_REASON_{name}"):
            assert named(text) == naive.named(text), text
            if naive.named(text) is not None:
                assert read_value(text) == naive.named(text)
    for name in naive.STATUS_NAME.values():
        dotted = name.removeprefix("TDX_").replace("_", ".")
        assert named(dotted) == naive.named(dotted)
    assert named("sys.busy") == ("status", int(naive.TABLES["status"]["TDX_SYS_BUSY"], 16))
    assert named("TDX.SYS.RD") is named("") is None


def test_the_line_that_refuses_what_is_no_number() -> None:
    wanted = (
        "expected a number (0x22, 34) or the name of a status, leaf, operand, field or exit reason"
    )
    for text in ("x" * 70, "0x", "0x_", "0x__", "", "1 2", "12345678g", "abcdef01", "1" * 61):
        with pytest.raises(InputError) as caught:
            read_value(text)
        assert str(caught.value) == f"decode: {text[:60]!r}; {wanted}"
    assert read_value("0" * 59 + "7") == (None, 7)
    for text in ("1" * 60, "0x" + "1" * 70, "0x1" + "0" * 16, str(TOP + 1)):
        with pytest.raises(InputError) as caught:
            read_value(text)
        assert str(caught.value) == f"decode: {text[:60]!r}; expected a number of at most 64 bits"
