"""Code that looks right to a search with a blind spot: each is found, or refused in one line."""

import re

import pytest

pytest.importorskip("elftools")
pytest.importorskip("unicorn")

from dpamt.errors import InputError
from dpamt.host.designs.base import Design
from dpamt.platform.page_allocator import BadFree
from dpamt.verify.machine_code.design import machine_design
from tests.kernel_image.compiled import C, built

from .trials import ONE_REGION, broken

MERGED = (C / "merged.c").read_text()
TAKE = "\tspin_lock(&dpamt_lock);"
LET_GO = "spin_unlock(&dpamt_lock)"
ALLOC = "int error = alloc_pair(pair);"
ONE = "\tatomic_set(count, 1);"
LOCK = "spinlock_t dpamt_lock;"
STATUS = "\tu64 status;"
FREE = "__free_pages(pair[i], 0)"
PER_CPU = '__attribute__((section(".data..percpu")))'
IRQ = (
    f"{LOCK}\nextern u64 _raw_spin_lock_irqsave(spinlock_t *);\n"
    "extern void _raw_spin_unlock_irqrestore(spinlock_t *, u64);\n"
    "extern void _raw_spin_lock_irq(spinlock_t *);\n"
    "extern void _raw_spin_unlock_irq(spinlock_t *);\nspinlock_t inner;\n"
)
PREEMPT = f"{LOCK}\n{PER_CPU} int __preempt_count = 0;\n"
RCU = f"{LOCK}\nextern void __rcu_read_lock(void);\nextern void __rcu_read_unlock(void);\n"
Edits = tuple[tuple[str, str], ...]


def design(edits: Edits, flags: tuple[str, ...] = ("-O2", "-g"), cc: str = "gcc") -> Design:
    header, body = (C / "kernel.h").read_text(), MERGED.replace('#include "kernel.h"', "")
    for old, new in edits:
        assert old in header + body, old
        if old in body:
            body = body.replace(old, new)
        else:
            header = header.replace(old, new)
    text = header + body
    return machine_design(built(text, flags, cc))


def asm(code: str, operands: str = ":::", rest: str = "") -> str:
    return f'asm volatile("{code}" {operands}"memory");{rest}'


def saved(restored: str) -> Edits:
    """The lock taken with interrupts saved, and let go with these."""
    return (
        (TAKE, "\tu64 flags = _raw_spin_lock_irqsave(&dpamt_lock);"),
        (LET_GO, f"_raw_spin_unlock_irqrestore(&dpamt_lock, {restored})"),
        (LOCK, IRQ),
    )


INNER = "_raw_spin_lock_irq(&inner); _raw_spin_unlock_irq(&inner);"
WRONG: dict[str, tuple[Edits, str]] = {
    "interrupts stay off after an answered call": (((TAKE, asm("cli") + TAKE),), "kernel"),
    "interrupts stay off by POPF": (
        (
            (TAKE, "\tu64 f;" + asm("pushf; pop %0; cli", ':"=r"(f)::') + TAKE),
            (ONE, ONE + asm("and $~0x200, %0; push %0; popf", ':"+r"(f)::')),
        ),
        "kernel",
    ),
    "flags of another value are restored": (saved("flags & ~0x200ul"), "kernel"),
    "interrupts are let on inside a section": (
        (*saved("flags"), (ONE, ONE + INNER)),
        "kernel",
    ),
    "an allocation with interrupts off": (
        ((ALLOC, f"int error; {asm('cli')} error = alloc_pair(pair); {asm('sti')}"),),
        "context",
    ),
    "an allocation without preemption": (
        (
            (LOCK, PREEMPT),
            (
                ALLOC,
                f"int error; {asm('incl %%gs:__preempt_count')} error = alloc_pair(pair);"
                + asm("decl %%gs:__preempt_count"),
            ),
        ),
        "context",
    ),
    "an allocation in an RCU read section": (
        (
            (LOCK, RCU),
            (ALLOC, "int error; __rcu_read_lock(); error = alloc_pair(pair); __rcu_read_unlock();"),
        ),
        "context",
    ),
    "an RCU read section that is left open": (
        ((LOCK, RCU), (STATUS, f"{STATUS} __rcu_read_lock();")),
        "kernel",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_found(name: str) -> None:
    edits, property_ = WRONG[name]
    assert property_ in broken(design(edits), ONE_REGION)


RIGHT: dict[str, Edits] = {
    "interrupts saved and restored": saved("flags"),
    "interrupts saved by hand": (
        (TAKE, "\tu64 f;" + asm("pushf; pop %0; cli", ':"=r"(f)::') + TAKE),
        (LET_GO, f'({LET_GO}, ({{ asm volatile("push %0; popf" ::"r"(f) : "memory"); }}))'),
    ),
    "a page's own struct page": (
        (FREE, "pair[i]->rest[0] = 5, pair[i]->rest[0] = 0, __free_pages(pair[i], 0)"),
    ),
    "a per-CPU variable that nobody reads": (
        (LOCK, f"{LOCK} {PER_CPU} u64 seen = 0;"),
        (STATUS, f"{STATUS} {asm('movq $1, %%gs:seen')}"),
    ),
    "a per-CPU variable that is put back": (
        (LOCK, f"{LOCK} {PER_CPU} u64 depth = 0;"),
        (STATUS, f"{STATUS} {asm('incq %%gs:depth')}{asm('decq %%gs:depth')}"),
    ),
    "a value behind RSP": (
        (
            STATUS,
            f"{STATUS} u64 r; "
            + asm(
                "sub $16, %%rsp; movq $5, (%%rsp); pushq $77; popq 8(%%rsp); popq %%rax; popq %0",
                ':"=r"(r)::"rax",',
                " if (r != 77) return 0;",
            ),
        ),
    ),
    "symbols that differ in a dot": (
        (
            LOCK,
            f'{LOCK} asm(".data\\n st_0: .long 0\\n st.0: .long 0\\n.text");'
            'extern volatile int one asm("st_0"), other asm("st.0");',
        ),
        (ONE, f"one = 1; {ONE}"),
        ("if (atomic_read(count) > 1) {", "if (other || atomic_read(count) > 1) {"),
    ),
    "an array of thunks at the address of the first": (
        (
            LOCK,
            f'{LOCK} asm(".globl __x86_indirect_thunk_rax, __x86_indirect_thunk_array\\n'
            '__x86_indirect_thunk_rax:\\n__x86_indirect_thunk_array: jmp *%rax\\n");'
            'static void nothing(void) { asm volatile(""); } void (*volatile to)(void) = nothing;',
        ),
        (STATUS, STATUS + asm("call __x86_indirect_thunk_rax", '::"a"(to):"rcx",')),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_it_holds(name: str) -> None:
    assert broken(design(RIGHT[name]), ONE_REGION) == ()


RESET = "extern void tdx_quirk_reset_paddr(u64 base, u64 size);"
LEAVES_R8 = (
    "__attribute__((noinline)) void tdx_quirk_reset_paddr(u64 base, u64 size)\n"
    '{ asm volatile("" ::"r"(base), "r"(size) : "memory"); }'
)
KEEPS_R8 = (
    'asm volatile("mov %0, %%r8" ::"r"(pair[i]) : "r8");'
    "u64 base = page_to_phys(pair[i]), size = PAGE_SIZE; struct page *page;"
    'asm volatile("call tdx_quirk_reset_paddr" : "+D"(base), "+S"(size) :: "memory");'
    'asm volatile("mov %%r8, %0" : "=r"(page)); __free_pages(page, 0);'
)


def test_a_register_that_a_function_of_the_file_leaves_alone() -> None:
    """gcc's -fipa-ra keeps values there over a call that dpamt answers."""
    freed = (
        "tdx_quirk_reset_paddr(page_to_phys(pair[i]), PAGE_SIZE);\n\t\t__free_pages(pair[i], 0);"
    )
    edits = ((RESET, LEAVES_R8), (freed, KEEPS_R8))
    assert broken(design(edits), ONE_REGION) == ()
    stays = design((*edits, ('{ asm volatile("" ', '{ asm volatile("xor %%r8d, %%r8d" ')))
    with pytest.raises(BadFree):
        broken(stays, ONE_REGION)


HEAD = "struct page *head = (struct page *)(vmemmap_base + (pfn & ~511ul) * 64);"
ARGS = "static struct tdx_module_args args; args.rcx = region_of(pfn);"
USED_AFTER = "reset_and_free_pair(pair); pair[0]->rest[1] = 5;\n\t\treturn 0;"
REFUSED: dict[str, tuple[Edits, str]] = {
    "a free of two pages": (((FREE, "__free_pages(pair[i], 1)"),), "is given 1 as order"),
    "arguments of a SEAMCALL in shared memory": (
        (("struct tdx_module_args args = { .rcx = region_of(pfn) };", ARGS),),
        "arguments of the SEAMCALL lie at args",
    ),
    "a lock of each CPU": (((LOCK, f"{PER_CPU} {LOCK}"),), "lock at dpamt_lock is another one"),
    "a lock on the stack": (
        ((TAKE, '\tspinlock_t my = {0}; asm("" : "+m"(my)); spin_lock(&my);'), (LET_GO, "(void)0")),
        "lock at 0x[0-9a-f]+ is another one",
    ),
    "a pointer to the stack": (
        (
            (LOCK, f"{LOCK} u64 *where;"),
            (TAKE, f'\tu64 mine; asm("" : "=m"(mine)); where = &mine; {TAKE}'),
        ),
        "where gets the address of memory that is another one",
    ),
    "a pointer to the stack, exchanged": (
        (
            (LOCK, f"{LOCK} u64 *where;"),
            (TAKE, f"\tu64 mine; __atomic_exchange_n(&where, &mine, 5); {TAKE}"),
        ),
        "where gets the address of memory that is another one",
    ),
    "the struct page of another page": (
        ((TAKE, f"\t{HEAD} while (__atomic_exchange_n(&head->rest[0], 1, 5)); {TAKE}"),),
        "reaches the struct page of page 0x[0-9a-f]+, which this thread does not have",
    ),
    "the struct page of a page that was freed": (
        (("reset_and_free_pair(pair);\n\t\treturn 0;", USED_AFTER),),
        "reaches the struct page of page 0x[0-9a-f]+, which this thread does not have",
    ),
    "a per-CPU variable that lasts": (
        (
            (LOCK, f"{LOCK} {PER_CPU} u64 calls = 0;"),
            (
                STATUS,
                f"{STATUS} u64 n; " + asm("incq %%gs:calls; movq %%gs:calls, %0", ':"=r"(n)::'),
            ),
        ),
        "reads the per-CPU variable calls",
    ),
    "a variable by GS that is no CPU's": (
        ((LOCK, f"{LOCK} int all;"), (STATUS, f"{STATUS} {asm('incl %%gs:all')}")),
        "reaches all, which is no per-CPU variable",
    ),
    "a variable by FS": (
        ((LOCK, f"{LOCK} int all;"), (STATUS, f"{STATUS} {asm('incl %%fs:all')}")),
        "goes by FS",
    ),
    "strings that go downwards": (
        (
            (
                STATUS,
                f"{STATUS} u64 b[8], *to = b + 7, n = 8; "
                + asm("std; rep stosq; cld", ':"+D"(to), "+c"(n) : "a"(5ul) :'),
            ),
        ),
        "goes downwards",
    ),
    "an atomic add of a sanitizer": (
        (
            (LOCK, f"{LOCK} extern int __tsan_atomic32_fetch_add(volatile int *, int, int);"),
            ("atomic_dec(count);", "__tsan_atomic32_fetch_add(&count->counter, -1, 0);"),
        ),
        "calls __tsan_atomic32_fetch_add",
    ),
    "half a counter": (
        (("atomic_dec(count);", asm("lock decw %0", ':"+m"(*(u16 *)count)::')),),
        "reaches 2 bytes of dpamt_refcounts",
    ),
    "a number kept in a floating-point register": (
        ((STATUS, f"{STATUS} int z = 3; " + asm("fildl %0", '::"m"(z):')),),
        "uses vector or floating-point registers",
    ),
    "a number kept in MXCSR": (
        ((STATUS, f"{STATUS} int z = 0x1fa0; " + asm("ldmxcsr %0", '::"m"(z):')),),
        "uses vector or floating-point registers",
    ),
    "a number kept in the base of GS": (
        ((STATUS, STATUS + asm("wrgsbase %0", '::"r"(0x1000ul):')),),
        "uses a register that is no general one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    edits, said = REFUSED[name]
    with pytest.raises(InputError, match=said) as refusal:
        broken(design(edits), ONE_REGION)
    assert re.search(r"tdx_pamt_(get|put)|tdh_phymem_|_pair", str(refusal.value))
    assert "\n" not in str(refusal.value)


def test_what_clang_leaves_in_memory_at_rsp_is_kept() -> None:
    """It pops RFLAGS into a place relative to RSP: where that lies behind the POP."""
    edits = (
        (TAKE, "\tu64 f;" + asm("pushf; pop %0; cli", ':"=rm"(f)::') + TAKE),
        (LET_GO, f'({LET_GO}, ({{ asm volatile("push %0; popf" ::"g"(f) : "memory"); }}))'),
    )
    for flags in ("-O0", "-O2"):
        assert broken(design(edits, (flags, "-g"), "clang"), ONE_REGION) == ()


def test_what_a_verdict_rests_on_is_said() -> None:
    """Words as they are linked, variables that a boot writes, locks that are inlined."""
    edits = (
        (LOCK, f'{LOCK} __attribute__((section(".data..ro_after_init"))) volatile int fast = 3;'),
        (STATUS, f"{STATUS} __rcu_read_lock(); __rcu_read_unlock(); if (fast != 3) return 0;"),
        (LOCK, RCU),
        ("#define KERNEL_H", "#define KERNEL_H\n#define LOCKS_ARE_WORDS"),
    )
    one = design(edits)
    assert broken(one, ONE_REGION) == ()
    assert one.code is not None
    said = "; ".join(one.code.assumptions())
    assert "as the image holds it, though a boot may write it: fast = 0x3" in said
    assert "shared words begin as the image holds them: dpamt_lock" in said
    assert "changed by locked instructions: dpamt_lock" in said
    assert "counted as nothing, or as a jump: __rcu_read_lock, __rcu_read_unlock" in said
