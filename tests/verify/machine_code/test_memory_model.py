"""Machine code ends in exactly the ways that x86-TSO, or sequential consistency, allows."""

import random

import pytest

from dpamt.verify.machine_code.memory_model import SC, TSO
from tests.kernel_image.compiled import built
from tests.verify.machine_code.litmus import Program, assembly, parse, simulated
from tests.verify.machine_code.threads import outcomes

PROGRAMS = {
    "sb": parse("x=1 y? | y=1 x?"),
    "sb_fenced": parse("x=1 mfence y? | y=1 mfence x?"),
    "sb_one_fence": parse("x=1 mfence y? | y=1 x?"),
    "sb_locked": parse("x:=1 y? | y:=1 x?"),
    "mp": parse("x=1 y=1 | y? x?"),
    "lb": parse("x? y=1 | y? x=1"),
    "two_two_w": parse("x=1 y=2 | y=1 x=2"),
    "iriw": parse("x=1 | y=1 | x? y? | y? x?"),
    "n6": parse("x=1 x? y? | y=2 x=2"),
    "n5": parse("x=1 x? | x=2 x?"),
    "r": parse("x=1 y=1 | y=2 x?"),
    "s": parse("x=2 y=1 | y? x=1"),
    "wrc": parse("x=1 | x? y=1 | y? x?"),
    "rwc": parse("x=1 | x? y? | y=1 x?"),
}
ONLY_TSO = {
    "sb": (0, 0, 1, 1),
    "sb_one_fence": None,
    "n6": (4, 0, 1, 2),
    "r": (0, 0, 1, 2),
}
"""The outcome that x86-TSO allows and sequential consistency does not (Owens and others 2009; r and
rwc: Alglave and others, "Herding cats", 2014)."""


def random_programs() -> dict[str, Program]:
    """Programs of two or three threads, drawn with a fixed seed."""
    draw = random.Random(14)
    found = {}
    for n in range(24):
        threads = []
        for _ in range(draw.choice((2, 2, 3))):
            ops = []
            for _ in range(draw.randint(1, 4)):
                var = draw.choice("xy")
                kind = draw.choice("wwrrrxf")
                if kind == "f":
                    ops.append(("f", "", 0))
                else:
                    ops.append((kind, var, draw.randint(1, 3) if kind != "r" else 0))
            threads.append(tuple(ops))
        found[f"random{n}"] = Program(tuple(threads))
    return found


ALL = {**PROGRAMS, **random_programs()}


@pytest.mark.parametrize("model", [SC, TSO])
@pytest.mark.parametrize("name", ALL)
def test_exactly_the_outcomes_of_the_model(name: str, model: str) -> None:
    program = ALL[name]
    path = built(assembly(ALL), (), "gcc", ".s")
    functions = tuple(f"{name}_{n}" for n in range(len(program.threads)))
    words = tuple(f"{name}_{word}" for word in program.words)
    assert outcomes(path, functions, words, model) == simulated(program, model == TSO)


@pytest.mark.parametrize("name", [name for name, outcome in ONLY_TSO.items() if outcome])
def test_what_a_store_buffer_adds(name: str) -> None:
    """The simulator itself: what the literature says is allowed."""
    tso, sc = simulated(PROGRAMS[name], True), simulated(PROGRAMS[name], False)
    assert ONLY_TSO[name] in tso - sc
    assert sc < tso


UNLOCKS = """
typedef unsigned long u64;
extern int TRY(void *);
extern void TAKE(void *), LET_GO(void *), LET_GO_AGAIN(void *);
int word;
u64 lock;
int first(void)
{
	TAKE(&lock);
	LET_GO(&lock);
	return *(volatile int *)&word;
}
int second(void)
{
	int taken;

	*(volatile int *)&word = 1;
	asm volatile("mfence" : : : "memory");
	taken = TRY(&lock) & 1;
	if (taken)
		LET_GO_AGAIN(&lock);
	return taken;
}
"""


@pytest.mark.parametrize("model", [SC, TSO])
@pytest.mark.parametrize(
    ("take", "let_go", "of"),
    [
        ("_raw_spin_lock", "_raw_spin_unlock", "spin"),
        ("_raw_write_lock", "_raw_write_unlock", "write"),
        ("_raw_read_lock", "_raw_read_unlock", "write"),
    ],
)
def test_an_unlock_may_be_seen_late(take: str, let_go: str, of: str, model: str) -> None:
    """It is a plain store, but for a reader's: then a later load of its CPU may go first."""
    names = {
        "TAKE": take,
        "LET_GO": let_go,
        "TRY": f"_raw_{of}_trylock",
        "LET_GO_AGAIN": f"_raw_{of}_unlock",
    }
    text = "".join(f"#define {name} {real}\n" for name, real in names.items())
    met = outcomes(built(text + UNLOCKS), ("first", "second"), (), model)
    assert ((0, 0) in met) == (model == TSO and not let_go.startswith("_raw_read"))
    assert {(1, 1), (0, 1)} <= met


TRIES = """
typedef unsigned long u64;
extern int TRY(void *);
extern void TAKE(void *), LET_GO(void *), LET_GO_AGAIN(void *);
volatile int one, two;
u64 lock;
int first(void)
{
	int taken;

	one = 1;
	taken = TRY(&lock) & 1;
	if (taken)
		LET_GO_AGAIN(&lock);
	return 2 * taken + two;
}
int second(void)
{
	two = 1;
	asm volatile("mfence" : : : "memory");
	return one;
}
int third(void)
{
	TAKE(&lock);
	LET_GO(&lock);
	return 0;
}
"""


@pytest.mark.parametrize("model", [SC, TSO])
@pytest.mark.parametrize(
    ("take", "let_go", "tried", "again"),
    [
        ("_raw_spin_lock", "_raw_spin_unlock", "_raw_spin_trylock", "_raw_spin_unlock"),
        ("_raw_write_lock", "_raw_write_unlock", "_raw_read_trylock", "_raw_read_unlock"),
        ("_raw_read_lock", "_raw_read_unlock", "_raw_write_trylock", "_raw_write_unlock"),
        ("mutex_lock", "mutex_unlock", "mutex_trylock", "mutex_unlock"),
    ],
)
def test_a_trylock_that_fails_is_a_load(
    take: str, let_go: str, tried: str, again: str, model: str
) -> None:
    """Then the store before it may still wait while its CPU goes on; where the lock was free a
    locked instruction was made."""
    names = {"TAKE": take, "LET_GO": let_go, "TRY": tried, "LET_GO_AGAIN": again}
    text = "".join(f"#define {name} {real}\n" for name, real in names.items())
    met = outcomes(built(text + TRIES), ("first", "second", "third"), (), model)
    failed, taken = (0, 0, 0), (2, 0, 0)
    assert (failed in met) == (model == TSO)
    assert taken not in met
    assert {(0, 1, 0), (2, 1, 0), (1, 0, 0), (3, 0, 0)} <= met


LOCK = """
#include "kernel.h"
int flags[2], turn, inside;
#define READ(x) (*(volatile int *)&(x))
#define WRITE(x, value) (*(volatile int *)&(x) = (value))
static inline int enter(void)
{
	int one = 1;

	asm volatile("lock xaddl %0, %1" : "+r"(one), "+m"(inside) : : "memory");
	return one;
}
static inline void leave(void)
{
	asm volatile("lock decl %0" : "+m"(inside) : : "memory");
}
#define PETERSON(name, me, other) int name(void) {                  \\
	int met;                                                    \\
	WRITE(flags[me], 1); WRITE(turn, other); FENCE;             \\
	while (READ(flags[other]) && READ(turn) == (other))         \\
		asm volatile("pause");                              \\
	met = enter(); leave(); WRITE(flags[me], 0);                \\
	return met; }
#define DEKKER(name, me, other) int name(void) {                    \\
	int met;                                                    \\
	WRITE(flags[me], 1); FENCE;                                 \\
	while (READ(flags[other])) {                                \\
		if (READ(turn) != (me)) {                           \\
			WRITE(flags[me], 0);                        \\
			while (READ(turn) != (me))                  \\
				asm volatile("pause");              \\
			WRITE(flags[me], 1); FENCE;                 \\
		}                                                   \\
	}                                                           \\
	met = enter(); leave(); WRITE(turn, other); WRITE(flags[me], 0); \\
	return met; }
KIND(first, 0, 1)
KIND(second, 1, 0)
"""


@pytest.mark.parametrize("kind", ["PETERSON", "DEKKER"])
@pytest.mark.parametrize("fence", [False, True])
@pytest.mark.parametrize("model", [SC, TSO])
def test_locks_of_plain_stores_need_a_fence_on_x86(kind: str, fence: bool, model: str) -> None:
    """Two CPUs are inside at once without a fence under x86-TSO, and in no other case."""
    how = 'asm volatile("mfence" : : : "memory")' if fence else "do { } while (0)"
    path = built(f"#define KIND {kind}\n#define FENCE {how}\n{LOCK}")
    met = outcomes(path, ("first", "second"), (), model)
    both_inside = any(any(one) for one in met)
    assert both_inside == (model == TSO and not fence)
