"""Functions of an object as threads, and every way in which they can end."""

from collections.abc import Callable
from pathlib import Path

from dpamt.host.designs.load import load_design
from dpamt.kernel_image.elf import ElfImage
from dpamt.verify.explore.search import search_of
from dpamt.verify.learn.automaton import Body
from dpamt.verify.learn.values import read_word
from dpamt.verify.machine_code.code import MachineCode
from dpamt.verify.machine_code.memory_model import TSO
from dpamt.verify.machine_code.places import Places
from dpamt.verify.programs.problem import WORDS, Problem, ThreadClass
from dpamt.verify.programs.world import World
from dpamt.verify.properties.named import properties

Outcome = tuple[int, ...]


def outcomes(
    path: Path, functions: tuple[str, ...], words: tuple[str, ...], model: str
) -> set[Outcome]:
    """What the functions return, one after the other, and what the words are at the end."""
    world = World(load_design("merged"), cpus=max(2, len(functions)))
    code = MachineCode(Places(ElfImage(path), "", model == TSO), model)
    code.prepare(world.kernel)
    results = world.shared.words("verify.results")
    found: set[Outcome] = set()

    def start(number: int) -> Callable[[], Body]:
        def begin() -> Body:
            cpu = world.cpu(number)

            def body() -> object:
                place = code.call(world.kernel, cpu, functions[number], ())
                mine = results.at(number)
                mine.store(code.value(place))
                return 0

            return body

        return begin

    def at_rest() -> list[str]:
        ends = [read_word(results, number) for number in range(len(functions))]
        known = dict(world.shared.arrays())
        ends += [
            read_word(known[f"image.{word}"], 0) if f"image.{word}" in known else 0
            for word in words
        ]
        found.add(tuple(ends))  # type: ignore[arg-type]
        return []

    classes = tuple(ThreadClass(name, start(n)) for n, name in enumerate(functions))
    problem = Problem(
        "functions of an object",
        world.shared,
        world.recorder,
        world.places,
        classes,
        at_rest,
        world=world,
    )
    search = search_of(problem, properties(frozenset()), WORDS)
    end = search.explore()
    assert not end.faults, end.faults
    return found
