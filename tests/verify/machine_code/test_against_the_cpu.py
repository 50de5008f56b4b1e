"""Random instructions, stopped and put back before each other one, against the machine's own CPU.

The same assembly is built twice: as an object whose places are learned, and as a library that this
process calls.  In the object a load of a shared word stands between any two instructions, so a
thread is stopped there, and another thread with other values runs on the same emulator before it
goes on.  Whatever a place does not keep is lost, or is the other thread's.
"""

import ctypes
import platform
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("elftools")
pytest.importorskip("unicorn")

from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage
from dpamt.sync import Word
from dpamt.verify.machine_code.memory import Cell
from dpamt.verify.machine_code.operations import ATOMIC_STEP, FENCE, LOAD, RETURN, STORE
from dpamt.verify.machine_code.places import Places
from tests.kernel_image.compiled import built, compiler

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="runs on the CPU itself")
PROGRAMS = 60
LENGTH = 14
WORDS = 32
"""Of eight bytes, on the stack."""
LETTERS = {8: "qword", 4: "dword", 2: "word", 1: "byte"}
NAMES = {
    8: ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r12", "r13", "r14"),
    4: ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "r8d", "r9d", "r12d", "r13d", "r14d"),
    2: ("ax", "bx", "cx", "dx", "si", "di", "bp", "r8w", "r9w", "r12w", "r13w", "r14w"),
    1: ("al", "bl", "cl", "dl", "sil", "dil", "bpl", "r8b", "r9b", "r12b", "r13b", "r14b"),
}
STOP = "mov r11, qword ptr stop[rip]"
SHARED = {size: f"shared{size}" for size in LETTERS}
MASK = (1 << 64) - 1
Form = Callable[[Random], list[str]]


def reg(random: Random, size: int) -> str:
    return random.choice(NAMES[size])


def own(random: Random, size: int) -> str:
    return f"{LETTERS[size]} ptr [rsp + {random.randrange(8 * WORDS // size) * size}]"


def place(random: Random, size: int) -> str:
    """Own memory, or the shared word of this size."""
    if random.random() < 0.3:
        return f"{LETTERS[size]} ptr {SHARED[size]}[rip]"
    return own(random, size)


def two(*names: str) -> Form:
    """A register or memory, and a register or number."""

    def form(random: Random) -> list[str]:
        size, name = random.choice(tuple(LETTERS)), random.choice(names)
        other = random.choice((reg(random, size), str(random.randrange(1, 100))))
        target = random.choice((reg, place))(random, size)
        if random.random() < 0.3 and target[0] != "r" and name not in ("cmp", "test"):
            source = place(random, size)
            if name not in ("adc", "sbb") or "shared" not in source:
                return [f"{name} {reg(random, size)}, {source}"]
        return [f"{name} {target}, {other}"]

    return form


def one(*names: str) -> Form:
    def form(random: Random) -> list[str]:
        size = random.choice(tuple(LETTERS))
        return [f"{random.choice(names)} {random.choice((reg, place))(random, size)}"]

    return form


def locked(random: Random) -> list[str]:
    size = random.choice(tuple(LETTERS))
    to = f"{LETTERS[size]} ptr {SHARED[size]}[rip]"
    if random.random() < 0.5:
        to = place(random, size)
    first, second = reg(random, size), random.choice((reg(random, size), "7"))
    small = [f"mov {first}, 3", f"mov {to}, 5"]  # a shared word may not wrap round
    if "shared" in to:
        second = random.choice((first, "7"))
    return [
        *(small if "shared" in to else []),
        random.choice(
            (
                f"lock add {to}, {second}",
                f"lock sub {to}, {second}",
                f"lock or {to}, {second}",
                f"lock and {to}, {second}",
                f"lock xadd {to}, {first}",
                f"lock inc {to}",
                f"lock dec {to}",
                f"xchg {to}, {first}",
                f"lock cmpxchg {to}, {first}",
            )
        ),
    ]


def flags(random: Random) -> list[str]:
    """Flags that one instruction leaves to the next, across a stop."""
    a, b, c = (reg(random, 8) for _ in range(3))
    when = random.choice(
        ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "l", "ge", "g")
    )
    made = random.choice((f"add {a}, {b}", f"sub {a}, {b}", f"cmp {a}, {b}", f"neg {a}"))
    used = random.choice(
        (
            [f"set{when} {reg(random, 1)}"],
            [f"set{when} {place(random, 1)}"],
            [f"cmov{when} {c}, {place(random, 8)}"],
            [f"adc {c}, 0", f"sbb {a}, {c}"],
            [f"rcl {c}, 1", f"rcr {place(random, 8)}, 1"],
            [f"adc {place(random, 8)}, 3"],
            ["lahf", "sahf", f"set{when} bl"],
            ["pushfq", "pop r8", "and r8, 0x8d5"],
            ["pushfq", "popfq", f"set{when} dl"],
            [f"j{when} 1f", f"not {c}", "1:"],
            ["cmc", f"adc {c}, 0"],
        )
    )
    return [made, *used]


def bits(random: Random) -> list[str]:
    """A bit by its number: the register's reaches beyond the operand."""
    name, size = random.choice(("bt", "bts", "btr", "btc")), random.choice((8, 4, 2))
    at, far = 64 * WORDS // 4, 64 * WORDS // 2
    number = random.randrange(-at, far) if size > 2 else random.randrange(-100, 100)
    by = f"r9{ {8: '', 4: 'd', 2: 'w'}[size] }"
    carry = ["adc rdx, 0"]
    if random.random() < 0.3:
        to = f"{LETTERS[size]} ptr {SHARED[size]}[rip]"
        lock = "lock " if name in ("bts", "btr") and random.random() < 0.5 else ""
        return [f"{lock}{name} {to}, {random.randrange(8 * size)}", *carry]
    middle = 8 * WORDS // 2
    return [f"mov r9, {number}", f"{name} {LETTERS[size]} ptr [rsp + {middle}], {by}", *carry]


def strings(random: Random) -> list[str]:
    letter, size = random.choice((("b", 1), ("w", 2), ("d", 4), ("q", 8)))
    count = random.randrange(0, 8)
    start = [f"lea rsi, [rsp + {8 * random.randrange(8)}]"]
    start += [f"lea rdi, [rsp + {64 + 8 * random.randrange(8)}]", f"mov ecx, {count}"]
    what = random.choice(
        (
            [f"rep movs{letter}"],
            [f"rep stos{letter}"],
            [f"movs{letter}"],
            [f"stos{letter}"],
            [f"lods{letter}"],
            [f"cmps{letter}", "setb bl"],
            [f"repne scas{letter}"],
            [f"repe cmps{letter}"],
        )
    )
    if random.random() < 0.2:  # one of its two ends is shared
        start = [f"lea rsi, {SHARED[size]}[rip]", start[1]]
        what = [f"movs{letter}"]
    elif random.random() < 0.2:
        start = [start[0], f"lea rdi, {SHARED[size]}[rip]"]
        what = [random.choice((f"movs{letter}", f"stos{letter}"))]
    return [*start, *what, "lea rsi, [rcx + 3]", "lea rdi, [rcx + 5]"]


def stack(random: Random) -> list[str]:
    """PUSH and POP through memory, of which a place relative to RSP is that behind a POP."""
    a, b = reg(random, 8), reg(random, 8)
    at = 8 * random.randrange(WORDS - 2)
    shared = f"qword ptr {SHARED[8]}[rip]"
    to_1 = ["lea r10, 1f[rip]", f"mov [rsp + {at}], r10"]
    return random.choice(
        (
            [f"push {a}", f"pop {b}"],
            [f"push {a}", f"pop qword ptr [rsp + {at}]"],
            [f"push qword ptr [rsp + {at}]", f"pop {b}"],
            [f"push qword ptr [rsp + {at}]", f"pop qword ptr [rsp + {8 * random.randrange(9)}]"],
            [f"push {shared}", f"pop {a}"],
            [f"push {a}", f"pop {shared}"],
            ["pushfq", f"pop qword ptr [rsp + {at}]", f"and qword ptr [rsp + {at}], 0x200"],
            ["push 77", f"pop {a}"],
            [f"push {NAMES[2][3]}", f"pop {NAMES[2][5]}"],
            [f"push {NAMES[2][3]}", f"pop word ptr [rsp + {at + 2}]"],
            ["push rbp", "mov rbp, rsp", "sub rsp, 32", "mov [rsp + 8], rax", "leave"],
            ["call 1f", "jmp 2f", "1:", f"mov {a}, 5", "ret", "2:"],
            [f"push {a}", "call 1f", "jmp 2f", "1:", "ret 8", "2:"],
            ["lea r10, 1f[rip]", "push r10", "ret", f"not {a}", "1:"],
            [*to_1, f"jmp [rsp + {at}]", "1:", f"mov qword ptr [rsp + {at}], 9"],
            [*to_1, f"call [rsp + {at}]", "1: pop r10", f"mov qword ptr [rsp + {at}], 9"],
        )
    )


def other(random: Random) -> list[str]:
    a, b, c = (reg(random, 8) for _ in range(3))
    m, s, o = place(random, 8), place(random, 4), own(random, 8)
    return random.choice(
        (
            [f"mov {reg(random, 1)}, {place(random, 1)}"],
            [f"mov {random.choice(('ah', 'bh', 'ch', 'dh'))}, {random.choice(('al', 'bh'))}"],
            ["mov ah, byte ptr [rsp + 3]", "mov byte ptr [rsp + 9], bh"],
            [f"mov {reg(random, 4)}, {s}"],
            [f"movzx {reg(random, 4)}, {place(random, 1)}"],
            [f"movsx {a}, {place(random, 2)}"],
            [f"movsxd {a}, {s}"],
            [f"lea {a}, [{b} + {c}*4 + 0x33]"],
            [f"lea {reg(random, 4)}, [{b} + {c}]"],
            [f"lea {a}, [{reg(random, 4)} + 5]"],
            [f"xchg {a}, {b}"],
            [f"bswap {a}"],
            [f"imul {a}, {m}"],
            ["mul rbx"],
            [f"mul {m}"],
            ["cqo", "mov rcx, 12345", "idiv rcx"],
            ["xor edx, edx", "mov ecx, 77", "div rcx"],
            ["cwde", "cdqe", "cdq"],
            [f"shld {a}, {b}, 5"],
            [f"shrd {o}, {a}, 9"],
            [f"shl {m}, 3", f"sar {a}, 7", f"ror {m}, 5", f"rol {a}, cl"],
            [f"popcnt {a}, {m}"],
            [f"bsf {a}, {o}"],
            [f"xadd {m}, {a}"],
            [f"cmpxchg {m}, {a}"],
            ["cmpxchg8b qword ptr [rsp + 24]"],
            ["lock cmpxchg8b qword ptr [rsp + 40]"],
            ["cmpxchg16b xmmword ptr [rsp + 48]"],
            ["mov ecx, 3", "1: inc rbx", "loop 1b"],
            ["xor ecx, ecx", "jrcxz 1f", "inc rbx", "1:"],
            [f"mov r10d, {8 * random.randrange(WORDS)}", "add qword ptr [rsp + r10], rax"],
            ["mfence", f"mov {m}, {a}", "lfence", "sfence", "pause"],
            [f"mov {m}, {a}", f"mov {b}, {m}"],
            [f"andn {a}, {b}, {c}", f"blsr {a}, {b}", f"shlx {a}, {m}, {c}"],
            [f"rorx {a}, {o}, 9", f"sarx {a}, {b}, {c}", f"pext {a}, {b}, {c}"],
            [f"crc32 {a}, {m}"],
            [f"movbe {a}, {m}", f"movbe {m}, {b}"],
            ["prefetcht0 [rsp]", "clc", "cld", "stc", "clc"],
        )
    )


FORMS: tuple[Form, ...] = (
    two("add", "sub", "and", "or", "xor", "mov", "cmp", "test"),
    two("add", "sub", "xor", "mov"),
    one("inc", "dec", "neg", "not"),
    locked,
    flags,
    bits,
    strings,
    stack,
    other,
    other,
)


def program(seed: int) -> list[str]:
    """The lines of one function: of RDI to a number that shows all that it has."""
    random = Random(seed)
    lines = [f"f{seed}:", *(f"push {name}" for name in ("rbx", "rbp", "r12", "r13", "r14", "r15"))]
    lines += [f"sub rsp, {8 * WORDS + 8}", "mov rax, rdi"]
    more = ["imul rax, rax, 0x5851f42d", "add rax, 0x14057b7f"]
    for at in range(WORDS):
        lines += [f"mov [rsp + {8 * at}], rax", *more]
    for size, name in SHARED.items():
        lines += [f"mov {LETTERS[size]} ptr {name}[rip], {NAMES[size][0]}", *more]
    for name in NAMES[8][1:]:
        lines += [f"mov {name}, rax", *more]
    for _ in range(LENGTH):
        for line in random.choice(FORMS)(random):
            lines += [line] if line.endswith(":") else [line, STOP]
    lines += ["mov r10, rax", *(f"rol r10, 7\nxor r10, {name}" for name in NAMES[8][1:])]
    lines += [f"rol r10, 7\nxor r10, [rsp + {8 * at}]" for at in range(WORDS)]
    for size, name in SHARED.items():
        lines += [f"xor eax, eax\nmov {NAMES[size][0]}, {name}[rip]\nrol r10, 9\nxor r10, rax"]
    lines += ["mov rax, r10", f"add rsp, {8 * WORDS + 8}"]
    return [*lines, *(f"pop {n}" for n in ("r15", "r14", "r13", "r12", "rbp", "rbx")), "ret"]


@cache
def text() -> str:
    lines = [".intel_syntax noprefix", ".data", ".balign 8", "stop: .quad 1"]
    lines += [f".balign 8\n{name}: .quad 0" for name in SHARED.values()]
    lines += [".text"]
    for seed in range(PROGRAMS):
        lines += [f".globl f{seed}", f".type f{seed}, @function", *program(seed)]
        lines += [f".size f{seed}, .-f{seed}"]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = tmp_path_factory.mktemp("native") / "f.s"
    source.write_text(text())
    target = source.with_suffix(".so")
    command: list[str | Path] = [compiler("gcc"), "-shared", "-o", target, source]
    subprocess.run(command, check=True, capture_output=True)
    return ctypes.CDLL(str(target))


def stepped(places: Places, function: str, seed: int) -> Iterator[int]:
    """One thread on shared memory of its own; the last of what it yields is what it returned."""
    memory: dict[Cell, Word] = {}

    def word(cell: Cell) -> Word:
        if cell not in memory:
            memory[cell] = Word()
            memory[cell].store(places.memory.first_value(cell))
        return memory[cell]

    at = places.enter(function, (seed,))
    while True:
        operation = places.operation(at)
        if operation.kind == RETURN:
            yield operation.arguments[0]
            return
        result = 0
        if operation.kind != FENCE:
            assert operation.cell is not None, operation
            here = word(operation.cell)
            if operation.kind == LOAD:
                result = here.load()
            elif operation.kind == STORE:
                here.store(operation.arguments[0])
            else:
                assert operation.kind == ATOMIC_STEP
                result = getattr(here, operation.method)(*operation.arguments)
        at = places.after(at, result)
        yield -1


@pytest.fixture(scope="module")
def places() -> Places:
    return Places(ElfImage(built(text(), (), suffix=".s")), "", True)


@pytest.mark.parametrize("number", range(PROGRAMS))
def test_stopped_anywhere_it_comes_to_the_same(
    number: int, library: ctypes.CDLL, places: Places
) -> None:
    native = getattr(library, f"f{number}")
    native.restype, native.argtypes = ctypes.c_uint64, [ctypes.c_uint64]
    seeds = (0x1234_5678_9ABC_DEF0 + number, 0xFEDC_BA98_7654_3210 - 7 * number)
    threads = [stepped(places, f"f{number}", seed) for seed in seeds]
    found: dict[int, int] = {}
    while len(found) < len(threads):
        for n, thread in enumerate(threads):
            value = next(thread, None)
            if value is not None and value != -1:
                found[n] = value
    expected = [native(seed & MASK) for seed in seeds]
    assert [found[n] for n in range(len(seeds))] == expected, "\n".join(program(number))


def test_what_the_emulator_does_otherwise_is_refused() -> None:
    """Unicorn 2.1 forgets the last byte of SHRD when it adds RIP to a displacement."""
    lines = [".data", ".quad 0", "here: .quad 0", ".text", ".globl f", ".type f, @function"]
    lines = [".intel_syntax noprefix", *lines, "f: shrd qword ptr here[rip], rax, 9", "ret"]
    image = ElfImage(built("\n".join([*lines, ".size f, .-f", ""]), (), suffix=".s"))
    places = Places(image, "", True)
    at = places.enter("f", ())
    assert places.operation(at).kind == LOAD
    with pytest.raises(InputError, match=r"shrd .* reaches 8 bytes .* none of its operands"):
        places.after(at, 5)
