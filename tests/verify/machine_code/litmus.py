"""Litmus programs: as assembly, and every outcome by a simulator of x86-TSO that shares no code.

The simulator is the abstract machine of Owens, Sarkar and Sewell, "A better x86 memory model:
x86-TSO" (2009): a first-in first-out buffer of stores for each CPU, read by its own loads first;
locked instructions and MFENCE need it empty; the oldest store reaches memory at any time.
"""

from typing import Any, NamedTuple

Op = tuple[str, str, int]
"""(``w`` store, ``r`` load, ``x`` exchange, ``f`` fence; variable; value)."""


class Program(NamedTuple):
    threads: tuple[tuple[Op, ...], ...]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(sorted({var for ops in self.threads for _, var, _ in ops if var}))


def parse(text: str) -> Program:
    """``x=1 y? | y=1 mfence x?``: a thread for each part."""
    threads = []
    for part in text.split("|"):
        ops: list[Op] = []
        for word in part.split():
            if word == "mfence":
                ops.append(("f", "", 0))
            elif word.endswith("?"):
                ops.append(("r", word[:-1], 0))
            elif ":=" in word:  # a locked exchange, its result dropped
                var, value = word.split(":=")
                ops.append(("x", var, int(value)))
            else:
                var, value = word.split("=")
                ops.append(("w", var, int(value)))
        threads.append(tuple(ops))
    return Program(tuple(threads))


def assembly(programs: dict[str, Program]) -> str:
    """Functions NAME_0, NAME_1 ... of each program; each has its own words NAME_x, NAME_y ..."""
    lines = [".text"]
    for name, program in programs.items():
        for n, ops in enumerate(program.threads):
            lines += [f".type {name}_{n}, @function", f"{name}_{n}:", "xorl %eax, %eax"]
            for op, var, value in ops:
                place = f"{name}_{var}(%rip)"
                if op == "w":
                    lines.append(f"movl ${value}, {place}")
                elif op == "r":
                    lines += [f"movl {place}, %ecx", "leal (%rcx,%rax,4), %eax", "xorl %ecx, %ecx"]
                elif op == "x":
                    lines += [f"movl ${value}, %ecx", f"xchgl %ecx, {place}", "xorl %ecx, %ecx"]
                else:
                    lines.append("mfence")
            lines += ["xorl %ecx, %ecx", "ret", f".size {name}_{n}, . - {name}_{n}"]
    lines.append(".bss")
    for name, program in programs.items():
        for var in program.words:
            full = f"{name}_{var}"
            lines += [".balign 8", f".type {full}, @object", f"{full}: .zero 4", f".size {full}, 4"]
            lines.append(".zero 4")
    return "\n".join(lines) + "\n"


def simulated(program: Program, buffers: bool) -> set[tuple[int, ...]]:
    """Every outcome: what each thread read, as one number in base 4, and the words at the end."""
    words = program.words
    ends: set[tuple[int, ...]] = set()
    count = len(program.threads)
    start: Any = ((0,) * count, (0,) * count, ((),) * count, (0,) * len(words))
    seen, pending = {start}, [start]
    while pending:
        at, read, waiting, memory = pending.pop()
        after = []
        for n in range(count):
            if waiting[n]:
                (var, value), *rest = waiting[n]
                after.append(
                    (at, read, _put(waiting, n, tuple(rest)), _put(memory, words.index(var), value))
                )
            if at[n] == len(program.threads[n]):
                continue
            op, var, value = program.threads[n][at[n]]
            on = _put(at, n, at[n] + 1)
            if op == "w" and buffers:
                after.append((on, read, _put(waiting, n, (*waiting[n], (var, value))), memory))
            elif op == "r":
                mine = [kept for name, kept in waiting[n] if name == var]
                got = mine[-1] if mine else memory[words.index(var)]
                after.append((on, _put(read, n, read[n] * 4 + got), waiting, memory))
            elif waiting[n]:
                continue
            elif op == "f":
                after.append((on, read, waiting, memory))
            else:
                after.append((on, read, waiting, _put(memory, words.index(var), value)))
        if not after:
            ends.add((*read, *memory))
        for state in after:
            if state not in seen:
                seen.add(state)
                pending.append(state)
    return ends


def _put(items: tuple[Any, ...], n: int, item: object) -> tuple[Any, ...]:
    return (*items[:n], item, *items[n + 1 :])
