"""Instructions decoded, against what the assembler was asked for; and a small linked kernel."""

import subprocess
from itertools import product
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("elftools")
pytest.importorskip("capstone")

from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.instructions import (
    ATOMIC,
    READ,
    TWO_STEPS,
    WRITE,
    Instruction,
    Instructions,
    Operand,
)
from dpamt.kernel_image.vmlinux import KernelImage

from .compiled import built, compiler

REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsi", "rdi", "rbp", "r8", "r11", "r13", "r15")
FORMS: dict[str, tuple[str, int, str]] = {
    "mov rax, qword ptr {}": ("mov", 8, READ),
    "mov word ptr {}, cx": ("mov", 2, WRITE),
    "movzx eax, byte ptr {}": ("movzx", 1, READ),
    "add dword ptr {}, ebx": ("add", 4, TWO_STEPS),
    "lock add dword ptr {}, ebx": ("add", 4, ATOMIC),
    "lock cmpxchg qword ptr {}, rcx": ("cmpxchg", 8, ATOMIC),
    "xchg qword ptr {}, rcx": ("xchg", 8, ATOMIC),
    "lock xadd dword ptr {}, eax": ("xadd", 4, ATOMIC),
    "cmp qword ptr {}, 5": ("cmp", 8, READ),
    "test byte ptr {}, 1": ("test", 1, READ),
    "bt dword ptr {}, 3": ("bt", 4, READ),
    "sete byte ptr {}": ("sete", 1, WRITE),
    "inc qword ptr {}": ("inc", 8, TWO_STEPS),
    "push qword ptr {}": ("push", 8, READ),
}


def assembled(lines: list[str]) -> list[Instruction]:
    text = "\n".join([".intel_syntax noprefix", ".text", ".globl f", "f:", *lines, "ret", ""])
    image = ElfImage(built(text, (), suffix=".s"))
    decoder = Instructions(image)
    found, at = [], image.symbols["f"].address
    for _ in [*lines, "ret"]:
        found.append(decoder.at(at))
        at += found[-1].size
    assert decoder.all() == found
    assert found[-1].is_return
    return found


def test_memory_operands_are_those_asked_for() -> None:
    random = Random(1)
    asked: list[tuple[str, str, Operand]] = []
    for form, (mnemonic, size, access) in FORMS.items():
        for has_base, has_index, segment in product((0, 1), (0, 1), ("", "gs")):
            base = random.choice(REGISTERS) if has_base else ""
            index = random.choice(REGISTERS) if has_index else ""
            scale = random.choice((2, 4, 8)) if has_index else 1
            shift = random.choice((0, 8, -16, 0x12345))
            if not base and not index:
                shift = 0x1000
            parts = [base, f"{index}*{scale}" if index else "", str(shift)]
            place = f"{segment + ':' if segment else ''}[{' + '.join(p for p in parts if p)}]"
            operand = Operand(base, index, scale, shift, segment, size, access)
            asked.append((form.format(place), mnemonic, operand))
    found = assembled([text for text, _, _ in asked])
    for one, (text, mnemonic, operand) in zip(found, asked, strict=False):
        assert (one.mnemonic, one.memory) == (mnemonic, (operand,)), text
        assert one.is_locked == (operand.access == ATOMIC)
        assert one.refused == ""
        assert not one.is_call
        assert not one.is_jump
        assert (one.target, one.computed) == (-1, -1)


PLACE = "[rbx + rcx*2 + 0x10]"
QUADS = (
    *(
        f"{op} qword ptr {PLACE}, rax"
        for op in ["add", "adc", "sub", "sbb", "and", "or", "xor", "mov", "cmp", "test"]
    ),
    *(f"{op} qword ptr {PLACE}, rax" for op in ["xchg", "xadd", "cmpxchg", "movbe"]),
    *(
        f"{op} rax, qword ptr {PLACE}"
        for op in ["add", "sub", "xor", "mov", "cmp", "imul", "cmovne", "bsf", "popcnt"]
    ),
    *(
        f"{op} rax, qword ptr {PLACE}"
        for op in ["bsr", "lzcnt", "tzcnt", "blsi", "crc32", "movbe", "cmove"]
    ),
    *(
        f"{op} qword ptr {PLACE}"
        for op in ["inc", "dec", "neg", "not", "mul", "imul", "div", "idiv", "push", "pop"]
    ),
    *(
        f"{op} qword ptr {PLACE}, {by}"
        for op in ["shl", "shr", "sar", "rol", "ror", "rcl", "rcr"]
        for by in ("1", "3", "cl")
    ),
    *(f"{op} qword ptr {PLACE}, 3" for op in ["bt", "bts", "btr", "btc"]),
    *(
        f"set{when} byte ptr {PLACE}"
        for when in ["e", "ne", "a", "b", "g", "l", "s", "o", "p", "ns"]
    ),
    f"shld qword ptr {PLACE}, rax, 3",
    f"shrd qword ptr {PLACE}, rax, cl",
    f"movsxd rax, dword ptr {PLACE}",
    f"mulx rax, rdx, qword ptr {PLACE}",
    f"rorx rax, qword ptr {PLACE}, 3",
    "cmpxchg8b qword ptr [rbx]",
    "cmpxchg16b xmmword ptr [rbx]",
    "lodsq",
    "stosq",
    "movsq",
    "cmpsq",
    "scasq",
    "stmxcsr dword ptr [rbx]",
    "ldmxcsr dword ptr [rbx]",
    "fnstcw word ptr [rbx]",
)


def test_each_access_is_what_a_cpu_does() -> None:
    """Against unicorn, which runs each instruction and tells what it reads and writes."""
    unicorn = pytest.importorskip("unicorn")
    from unicorn import x86_const as x86

    for text, one in zip(QUADS, assembled([*QUADS]), strict=False):
        cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        for place in (CODE, MEMORY, STACK):
            cpu.mem_map(place, 0x2000)
        cpu.mem_write(CODE, encoded([*QUADS], one))
        cpu.mem_write(MEMORY, b"\x01\x02" * 0x800)
        cpu.mem_write(MEMORY, b"\x80\x1f\0\0")  # a value that MXCSR may have
        for register, value in (("RBX", MEMORY), ("RCX", 0x20), ("RAX", 5), ("RDX", 0)):
            cpu.reg_write(getattr(x86, f"UC_X86_REG_{register}"), value)
        for register, value in (("RSI", MEMORY + 64), ("RDI", MEMORY + 128), ("RSP", STACK + 4096)):
            cpu.reg_write(getattr(x86, f"UC_X86_REG_{register}"), value)
        seen: set[str] = set()

        def note(_cpu: object, kind: int, at: int, *_: object, seen: set[str] = seen) -> None:
            if MEMORY <= at < MEMORY + 0x2000:
                seen.add("w" if kind == unicorn.UC_MEM_WRITE else "r")

        cpu.hook_add(unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, note)
        cpu.emu_start(CODE, CODE + one.size, count=1)
        kinds = {READ: "r", WRITE: "w", ATOMIC: "rw", TWO_STEPS: "rw"}
        assert {word for each in one.memory for word in kinds[each.access]} == seen, text


CODE, MEMORY, STACK = 0x100000, 0x200000, 0x300000


def encoded(lines: list[str], one: Instruction) -> bytes:
    text = "\n".join([".intel_syntax noprefix", ".text", ".globl f", "f:", *lines, "ret", ""])
    return ElfImage(built(text, (), suffix=".s")).read(one.address, one.size)


def test_places_relative_to_the_instruction() -> None:
    """RIP is where the next instruction begins."""
    load, lea = assembled(["mov rax, qword ptr [rip + 0x40]", "lea rcx, [rip + 0x100]"])[:2]
    [operand] = load.memory
    assert (operand.base, operand.index) == ("", "")
    assert operand.displacement == load.address + load.size + 0x40
    assert lea.memory == ()
    assert lea.computed == lea.address + lea.size + 0x100
    assert lea.names(lea.computed)
    assert not load.names(lea.computed)


def test_what_an_instruction_is() -> None:
    lines = {
        "mfence": "fence",
        "sfence": "",
        "lfence": "",
        "ud2": "undefined",
        "nop": "filler",
        "int3": "filler refused",
        "endbr64": "filler",
        "cpuid": "refused",
        "movnti dword ptr [rax], ecx": "unordered",
        "xlatb": "refused",
        "rdmsr": "refused",
        "movaps xmm0, xmm1": "vector",
        "lea rax, [rcx + 8]": "",
        "prefetcht0 byte ptr [rax]": "",
        "nop dword ptr [rax + 0x10]": "filler",
        "mov rax, rcx": "",
        "xchg rax, rcx": "",
        "rep stosq": "repeated",
        "call f": "call",
        "jmp f": "jump",
        "je f": "jump",
        "jmp rax": "jump",
    }
    found = assembled([*lines])
    start = found[0].address
    for one, (text, words) in zip(found, lines.items(), strict=False):
        assert one.empties_buffer == ("fence" in words.split()), text
        assert one.is_undefined == ("undefined" in words), text
        assert one.is_filler == ("filler" in words), text
        assert one.is_repeated == ("repeated" in words), text
        assert (one.is_call, one.is_jump) == ("call" in words, "jump" in words), text
        refused = {"refused": "leaves what a thread may do by itself"}
        refused["unordered"] = "is a store that x86-TSO does not order"
        refused["vector"] = "uses vector or floating-point registers"
        assert one.refused == next((refused[word] for word in refused if word in words), ""), text
        direct = text.endswith(" f")
        assert one.target == (start if direct else -1), text
        if not {"repeated", "unordered"} & {*words.split()}:
            assert one.memory == (), text
        assert not one.is_locked
    kinds = {text: one.operands for one, text in zip(found, lines, strict=False)}
    assert kinds["mov rax, rcx"] == (("reg", "rax"), ("reg", "rcx"))
    assert kinds["lea rax, [rcx + 8]"] == (("reg", "rax"), ("mem", None))
    number = assembled(["mov rax, 0x1234"])[0]
    assert number.operands == (("reg", "rax"), ("imm", 0x1234))
    assert number.names(0x1234)
    assert not number.names(0x1235)


def test_where_no_code_lies() -> None:
    text = ".text\n.globl f\nf:\n.byte 0x06\nret\n.data\n.globl d\nd: .quad 1\n"
    image = ElfImage(built(text, (), suffix=".s"))
    decoder = Instructions(image)
    with pytest.raises(InputError, match=r"f: no known instruction \(06 c3 .*\)"):
        decoder.at(image.symbols["f"].address)
    with pytest.raises(InputError, match="code goes to d, where no code lies"):
        decoder.at(image.symbols["d"].address)


@pytest.mark.parametrize(
    ("after", "slack"),
    [([0xCC] * 40, 4096 - 16), ([0x90] * 20 + [0xC3], 20 - 12), ([], 4096 - 16), ([0xC3] * 30, 0)],
)
def test_the_rest_of_the_last_page_of_code(after: list[int], slack: int, tmp_path: Path) -> None:
    """From the next 16 bytes on, as far as there is nothing but filling, or to the page's end."""
    filling = "".join(f".byte {byte}\n" for byte in after)
    text = f".text\n.globl f, _etext\nf: nop\nnop\nnop\nret\n_etext:\n{filling}.balign 4096, 0\n"
    target = tmp_path / "vmlinux"
    note = "0123456789abcdef"
    command: list[str | Path] = [compiler("gcc"), "-nostdlib", "-static", "-no-pie"]
    command += [f"-Wl,--build-id=0x{note},-e,f,-z,noseparate-code", "-Wl,-Ttext=0x401000"]
    subprocess.run([*command, "-o", target, built(text, (), suffix=".s")], check=True)
    image = KernelImage(target)
    assert image.slack_after_text() == (0x401010, slack)
    assert image.build_id == note
    assert not image.has_pvh_entry
    symbol = image.symbol("f")
    assert symbol is not None
    assert image.file_bytes(symbol.address, 4) == b"\x90\x90\x90\xc3"
