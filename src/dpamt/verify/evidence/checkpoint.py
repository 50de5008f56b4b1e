"""A search kept in a file as it stands, and taken up again: same numbers, same verdict.

The file is a zip archive: ``search.json`` says what was asked and what was found so far, the
``.txt`` members hold what was learned, one Python literal a line, the ``.bin`` members the states
and edges.  Nothing in it is run.  The automata are learned again from the code of now by the
histories of their nodes, in order; so a node that is not where it was tells that the code has
changed.
"""

import json
import os
import re
import struct
import sys
import zipfile
import zlib
from array import array
from ast import literal_eval
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from dpamt.errors import InputError, ModelError
from dpamt.files import Output, replaced
from dpamt.host.designs.base import OtherCode
from dpamt.own_files import STAMP
from dpamt.sync.observed import Address
from dpamt.verify.evidence.code_hash import dpamt_hash, hashes_of
from dpamt.verify.evidence.reading import parse_json
from dpamt.verify.explore.blocks import Engine
from dpamt.verify.explore.compiled.engine import CompiledGraph
from dpamt.verify.explore.compiled.library import library, why_not
from dpamt.verify.explore.graph import Graph
from dpamt.verify.explore.judging import HOLDS, Fault, Found
from dpamt.verify.explore.lock_order import taken_up
from dpamt.verify.explore.search import Search
from dpamt.verify.explore.state import SHARED_BY_ALL, SPARE_SLOTS, Knowledge, Local, Use
from dpamt.verify.learn.automaton import Automaton

FORMAT: Final = 4
_ARRAYS: Final = ("parents", "moves", "first_edges", "targets", "ends")
_COMPILED: Final = ("rows", "parents", "moves", "onward", "ends")
"""Members that hold states and edges, of a search in Python and of one in compiled code."""
_HEAD: Final = {
    "asked": dict,
    "python": str,
    "dpamt": str,
    "dpamt_code": str,
    "code": dict,
    "bounds": dict,
    "properties": list,
    "capacity": int,
    "other_code": dict,
    "lock_order": list,
    "level_end": int,
    "bits": list,
    "expanded": int,
    "transitions": int,
    "depth": int,
    "seconds": float,
    "restarts": int,
    "faults": list,
}
"""What the head has besides the format, and of which kind."""
_MEMBER: Final = re.compile(
    r"search\.json|knowledge\.txt|locals\.txt|(nodes|slots)\d*\.txt|states\.bin|"
    rf"({'|'.join(dict.fromkeys((*_ARRAYS, *_COMPILED)))})\.bin"
)
_SMALL: Final = 64 << 20
_MOST_RATIO: Final = 200
"""Bytes of a file beyond this size may not come of fewer than a 200th; states come to a 60th."""
_MOST_TEXT: Final = 256 << 20
_LONGEST_LINE: Final = 1 << 20
"""Characters that are read as one Python literal, of a member that is text."""
_MOST_CAPACITY: Final = 1 << 16
_DAMAGED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)
"""What the library raises for a file that is none or is not whole."""
_WRITTEN: Final = "expected a file that --checkpoint wrote"


class Kept(NamedTuple):
    """A file that was read: what it says of itself, and its members."""

    path: str
    head: dict[str, Any]
    members: dict[str, bytes]

    def lines(self, name: str) -> list[Any]:
        """The literals of a member."""
        lines = self.members[name].decode().splitlines()
        if any(len(line) > _LONGEST_LINE for line in lines):
            raise ValueError("a line that is too long")
        return [literal_eval(line) for line in lines]


def keep(path: str | Output, asked: Mapping[str, Any], search: Search, found: Found) -> None:
    """Write the search to a file, whole or not at all.  Raises InputError where it cannot be."""
    graph, words = search.graph, search.engine.words
    head = {
        "format": FORMAT,
        **STAMP,
        "asked": asked,
        "python": sys.version.split()[0],
        "dpamt_code": dpamt_hash(),
        "code": hashes_of(search),
        "bounds": search.problem.bounds,
        "properties": [judge.name for judge in search.properties],
        "order": sys.byteorder,
        "capacity": search.capacity,
        "apart": search.apart,
        "lines": lines.kept() if (lines := search.problem.recorder.lines) is not None else [],
        "other_code": code.kept() if (code := _other_code(search)) is not None else {},
        "lock_order": search.engine.context.order.kept(),
        "level_end": graph.level_end,
        "bits": list(graph.bits) if isinstance(graph, CompiledGraph) else [],
        "expanded": graph.expanded,
        "transitions": found.transitions,
        "depth": found.depth,
        "seconds": found.seconds,
        "restarts": search.restarts,
        "faults": list(found.faults.values()),
    }
    with (
        replaced(path, "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        archive.writestr("search.json", json.dumps(head))
        archive.writestr("knowledge.txt", _text([asdict(search.knowledge)]))
        for n, automaton in enumerate(search.automata):
            archive.writestr(f"nodes{n}.txt", _text(node.history for node in automaton.nodes))
        for name, slots in (("", words.shared), *enumerate(words.own)):
            archive.writestr(
                f"slots{name}.txt", _text((slot.address, slot.values) for slot in slots)
            )
        archive.writestr("locals.txt", _text(search.engine.locals))
        if isinstance(graph, CompiledGraph):
            members = {**graph.columns(), "ends": array("I", graph.ends)}
        else:
            members = {name: getattr(graph, name) for name in _ARRAYS}
            members["states"] = b"".join(graph.numbers)
        for name, content in members.items():
            with archive.open(f"{name}.bin", "w", force_zip64=True) as member:
                member.write(content)


def _text(items: Iterable[Any]) -> str:
    return "".join(f"{_literal(item)}\n" for item in items)


def _literal(value: Any) -> str:
    """A value as a Python literal."""
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(_literal, value))
        return f"({inside}{',' if value else ''})"
    if isinstance(value, (set, frozenset)):
        return f"({''.join(_literal(item) + ', ' for item in sorted(value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    raise ModelError(f"a search that has seen a {type(value).__name__} cannot be kept")


def read(path: str, most_memory: int = 0) -> Kept:
    """The file, unpacked into at most ``most_memory`` bytes (0: half of what the machine has).

    Raises InputError for anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path, archive, most_memory)
            members = {name: archive.read(name) for name in archive.namelist()}
        head = parse_json(members["search.json"])
        if head["format"] != FORMAT or head["order"] != sys.byteorder:
            raise ValueError("format")
        for name, kind in _HEAD.items():
            if type(head[name]) is not kind:
                raise TypeError(name)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {_WRITTEN}") from None
    except _DAMAGED:
        raise InputError(f"{path}: not such a file, or not whole; {_WRITTEN}") from None
    return Kept(path, head, members)


def same_but_path(bounds: Mapping[str, Any]) -> dict[str, Any]:
    """Bounds without the path of the design, which says nothing of what is in the file."""
    return {name: bound for name, bound in bounds.items() if name != "design"}


def _check_size(path: str, archive: zipfile.ZipFile, most_memory: int) -> None:
    """Refuse what would take more memory than it may, by the sizes that members are cut at."""
    members = archive.infolist()
    if len({member.filename for member in members}) != len(members):
        raise ValueError("a member twice")
    if not all(_MEMBER.fullmatch(member.filename) for member in members):
        raise ValueError("a member that is none of a search")
    packed = sum(member.compress_size for member in members)
    whole = sum(member.file_size for member in members)
    texts = sum(member.file_size for member in members if not member.filename.endswith(".bin"))
    if whole > _SMALL and whole > packed * _MOST_RATIO:
        raise InputError(
            f"{path}: {packed:,} bytes that claim to be {whole:,}, more than {_MOST_RATIO} times "
            f"as many; {_WRITTEN}"
        )
    most = most_memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if whole > most or texts > _MOST_TEXT:
        raise InputError(
            f"{path}: {whole >> 20:,} MiB, {texts >> 20:,} MiB of it text; expected at most "
            f"{most >> 20:,} MiB (--max-memory) and {_MOST_TEXT >> 20:,} MiB"
        )


def take_up(kept: Kept, search: Search) -> Found:
    """Bring a fresh search to where it was kept; what it had found.

    Raises InputError, in one line, where code, bounds or properties are not those of then.
    """
    head = kept.head
    changed = f"{kept.path}: %s; expected what it was begun with: start again without --resume"
    if same_but_path(head["bounds"]) != same_but_path(search.problem.bounds):
        raise InputError(changed % "the bounds have changed")
    names = [judge.name for judge in search.properties]
    if head["properties"] != names:
        raise InputError(changed % "the properties have changed")
    if head["python"].split(".")[:2] != sys.version.split()[0].split(".")[:2]:
        raise InputError(changed % f"it was begun with Python {head['python']}")
    if head["dpamt_code"] != dpamt_hash():
        raise InputError(changed % "the code of dpamt has changed")
    try:
        for number in head["apart"]:
            search.tell_apart(number)
        _learn_again(kept, search.automata)
        code = _other_code(search)
        if code is not None:
            code.take_up(head["other_code"])
        for part, now in hashes_of(search).items():
            if head["code"][part] != now:
                raise InputError(changed % _CHANGED[part])
        lines = search.problem.recorder.lines
        if lines is not None:
            lines.take_up(head["lines"])
        return _fill(kept, search)
    except (InputError, ModelError):
        raise
    except _CodeChanged:
        raise InputError(changed % "the code that is verified has changed") from None
    except Exception as error:
        raise InputError(f"{kept.path}: not whole ({type(error).__name__}); {_WRITTEN}") from None


_CHANGED: Final = {
    "design": "the code that is verified has changed",
    "properties": "the properties have changed",
    "ran": "the code that is verified has changed",
}
"""By part of the hash: what is not as it was."""


class _CodeChanged(Exception):  # noqa: N818  (it is no error: it becomes one line)
    """A thread does not come to where it stood."""


def _other_code(search: Search) -> OtherCode | None:
    """The design's code that is not Python."""
    world = search.problem.world
    return world.design.code if world is not None else None


def _learn_again(kept: Kept, automata: tuple[Automaton, ...]) -> None:
    for n, automaton in enumerate(automata):
        for number, history in enumerate(kept.lines(f"nodes{n}.txt")):
            try:
                reached = automaton.reach(tuple(history))
            except Exception:  # whatever code does with results that are no longer its own
                raise _CodeChanged from None
            if reached != number:
                raise _CodeChanged


def _fill(kept: Kept, search: Search) -> Found:
    head = kept.head
    if not SPARE_SLOTS <= head["capacity"] <= _MOST_CAPACITY:
        raise ValueError("capacity")
    knowledge = _knowledge(kept.lines("knowledge.txt")[0])
    slots = knowledge.slots
    knowledge.slots = head["capacity"] - SPARE_SLOTS
    search.begin(knowledge)
    knowledge.slots = slots
    search.restarts = head["restarts"]
    search.engine.context.order = taken_up(head["lock_order"])
    words = search.engine.words
    for owner in (SHARED_BY_ALL, *range(len(words.own))):
        for address, values in kept.lines(f"slots{owner if owner >= 0 else ''}.txt"):
            if values[0] != words.start_value(Address(*address)):
                raise _CodeChanged
            words.put_slot(owner, Address(*address), values)
    for page in knowledge.pages:
        words.start_pages[page] = search.problem.shared.array(page[0]).at(page[1]).capture()
    _locals(kept, search.engine)
    if head["bits"]:
        search.graph = _compiled_graph(kept, search)
    else:
        search.graph = _graph(kept, search)
    count = len(search.graph)
    found = Found(HOLDS, transitions=head["transitions"], depth=head["depth"])
    found.seconds = head["seconds"]
    found.faults = {fault[0]: Fault(*fault) for fault in head["faults"]}
    if not all(0 <= fault.state < count for fault in found.faults.values()):
        raise ValueError("faults")
    return found


def _graph(kept: Kept, search: Search) -> Graph:
    head, size = kept.head, search.packing.size
    states = kept.members["states.bin"]
    graph = Graph(states[:size])
    graph.numbers = {states[n : n + size]: n // size for n in range(0, len(states), size)}
    for name in _ARRAYS:
        values = array(getattr(graph, name).typecode)
        values.frombytes(kept.members[f"{name}.bin"])
        setattr(graph, name, values)
    graph.level_end = head["level_end"]
    count = len(states) // size
    if not (len(graph.parents) == len(graph.moves) == count == len(graph.numbers)):
        raise ValueError("states")
    _check_graph(graph, count)
    return graph


def _compiled_graph(kept: Kept, search: Search) -> CompiledGraph:
    if library() is None:
        raise InputError(
            f"{kept.path}: it was begun in compiled code, and here {why_not()}; expected a C "
            "compiler"
        )
    head = kept.head
    ends = array("I")
    ends.frombytes(kept.members["ends.bin"])
    columns = {name: kept.members[f"{name}.bin"] for name in _COMPILED if name != "ends"}
    graph = CompiledGraph(search, search.jobs)
    graph.take_up(head["bits"], columns, head["expanded"], ends, head["transitions"])
    graph.level_end = head["level_end"]
    whole = 0 <= graph.expanded <= graph.level_end <= len(graph) and all(
        0 <= end < graph.expanded for end in ends
    )
    if not whole:
        raise ValueError("states")
    return graph


def _check_graph(graph: Graph, count: int) -> None:
    """Raise ValueError where a state comes from none before it, or an edge leads nowhere."""
    begins, targets = graph.first_edges, graph.targets
    whole = (
        len(begins) <= graph.level_end <= count
        and all(begins[n] <= begins[n + 1] for n in range(len(begins) - 1))
        and (not begins or (begins[0] == 0 and begins[-1] <= len(targets)))
        and all(0 <= end < len(begins) for end in graph.ends)
        and (not targets or (min(targets) >= 0 and max(targets) < count))
        and all(0 <= parent < n for n, parent in enumerate(graph.parents) if n)
    )
    if not whole:
        raise ValueError("edges")


def _locals(kept: Kept, engine: Engine) -> None:
    for number, (kind, node, own, held) in enumerate(kept.lines("locals.txt")):
        locks = tuple((Address(*lock), exclusively) for lock, exclusively in held)
        if engine.number(Local(kind, node, own, locks)) != number:
            raise ValueError("locals")


def _uses(kept: Any) -> set[Use]:
    return {
        Use(tuple((Address(*lock), how) for lock, how in held), writes) for held, writes in kept
    }


def _knowledge(kept: dict[str, Any]) -> Knowledge:
    def addresses(items: Any) -> set[Address]:
        return {Address(*item) for item in items}

    return Knowledge(
        varying=addresses(kept["varying"]),
        taken_as_fixed=addresses(kept["taken_as_fixed"]),
        toucher={Address(*item): kind for item, kind in kept["toucher"].items()},
        pages=dict(kept["pages"]),
        rewritten=set(kept["rewritten"]),
        entries={page: [Address(*one) for one in ones] for page, ones in kept["entries"].items()},
        uses={Address(*item): _uses(uses) for item, uses in kept["uses"].items()},
        page_uses={page: _uses(uses) for page, uses in kept["page_uses"].items()},
        unguarded=addresses(kept["unguarded"]),
        taken_as_guarded=addresses(kept["taken_as_guarded"]),
        no_counters=addresses(kept["no_counters"]),
        taken_as_counters=addresses(kept["taken_as_counters"]),
        looked_at=addresses(kept["looked_at"]),
        taken_as_movers=addresses(kept["taken_as_movers"]),
        slots=kept["slots"],
        reduced=kept["reduced"],
        wide=kept["wide"],
    )
