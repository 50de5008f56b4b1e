"""The reference of the SEAMCALL leaves, docs/leaves/: a page for each, made from the code it runs.

``python -m dpamt.report.leaf_pages docs/leaves`` writes it; a test compares it with what is there.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Final

import dpamt
from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.states import (
    OP_STATE_ALLOWED,
    OP_STATE_NAMES,
    SEPT_STATE_ALLOWED,
    SEPT_STATE_NAMES,
)
from dpamt.abi.status import STATUS_NAMES, TDX_MISSING_PAMT_PAGE_PAIR
from dpamt.errors import InputError
from dpamt.files import replaced
from dpamt.module.leaves.table import BEFORE_READY, HANDLERS
from dpamt.module.module import TdxModule
from dpamt.module.pamt import Pamt
from dpamt.module.releases import RELEASES, Release
from dpamt.report.leaf_source.scope import plain_function
from dpamt.report.leaf_source.steps import Check, LeafSteps, Lock, leaf_steps

_PACKAGE: Final = Path(dpamt.__file__).parent
_LEAVES: Final = "dpamt.module.leaves."
_MISSING: Final = STATUS_NAMES[TDX_MISSING_PAMT_PAGE_PAIR]
_MADE: Final = "<!-- Made by `python -m dpamt.report.leaf_pages docs/leaves` from the code. -->"

_README: Final = """\
# The SEAMCALL leaves

{made}

What each leaf of the TDX module expects, checks, locks and changes, as the model answers it. These
pages are read from the code that answers: the checks stand in the order in which the leaf makes
them, with the condition as the source has it. `dpamt conform` names the same functions and
conditions when a recorded answer differs.

How to read a table of checks: a leaf ends with the first status whose *when* is true. *Bits 31:0*
is the operand that the status names, or what else it carries there. In *when*, `busy`, `BUSY` and
`... < 0` of something just locked mean that the lock was not free. *In* is the function that
checks: one of the leaf, or a building block that many share (below). A row without a status is
what shuts the real module down.

Every lock is tried once and never waited for; all are dropped when the leaf ends. Who writes an
entry of PAMT holds it exclusively.

| # | leaf | operands; outputs | missing pair names | removal hint in |
|---|---|---|---|---|
{leaves}
## Before the leaf: the dispatcher

| status | bits 31:0 | when |
|---|---|---|
{dispatcher}
Allowed before the module is READY: {before}.

## Building blocks

| function | what it does | used by |
|---|---|---|
{blocks}"""


def pages() -> dict[str, str]:
    """File name to text, of every page."""
    steps = {leaf: leaf_steps(_function(leaf)) for leaf in sorted(HANDLERS)}
    found = {_file(leaf): "\n".join(_page(leaf, steps[leaf])) for leaf in steps}
    found["README.md"] = _readme(steps)
    return found


def main(arguments: list[str]) -> None:
    """Write the pages into a folder; pages of leaves that are no more go away.

    Raises InputError for a folder where a file of such a name is not one of these pages.
    """
    folder = Path(arguments[0])
    made = pages()
    old = {file.name for file in folder.glob("tdh-*.md")}
    for name in sorted(old | {name for name in made if (folder / name).exists()}):
        if _MADE not in (folder / name).read_text(encoding="utf-8"):
            raise InputError(f"{folder / name}: was not made here; expected a folder of leaf pages")
    folder.mkdir(parents=True, exist_ok=True)
    for name in old - made.keys():
        (folder / name).unlink()
    for name, text in made.items():
        with replaced(str(folder / name)) as file:
            file.write(text)


def _function(leaf: int) -> FunctionType:
    handler = HANDLERS[leaf]
    if not isinstance(handler, FunctionType):
        raise TypeError(f"{LEAF_NAMES[leaf]}: its handler is not a function")
    return handler


def _file(leaf: int) -> str:
    return LEAF_NAMES[leaf].lower().replace(".", "-") + ".md"


# One leaf.


def _page(leaf: int, steps: LeafSteps) -> Iterator[str]:
    handler = _function(leaf)
    about, source = _docstring(handler)
    yield from (f"# {LEAF_NAMES[leaf]}", "", _MADE, "")
    yield f"Leaf {leaf}, [`{handler.__name__}`]({_link(handler)}). {_summary(handler)}"
    yield from ("", *about, "", *_operands(leaf), "")
    yield from _facts(leaf, steps)
    yield from ("", "## Checks, in order", "", *_checks(steps.checks))
    if steps.locks:
        yield from ("", "## Locks, in order", "", *_locks(steps.locks))
    if steps.effects:
        yield from ("", "## What changes in PAMT", "", *_effects(steps))
    if steps.release_fields:
        yield from ("", "## What differs between releases", "", *_releases(steps.release_fields))
    own = [function for function in steps.functions[1:] if _is_of_leaf(function)]
    if own:
        yield from ("", "## Its own functions", "", "| function | what it does |", "|---|---|")
        yield from (f"| `{function.__name__}` | {_told(function)} |" for function in own)
    yield from ("", f"Source: {source}", "")


def _operands(leaf: int) -> Iterator[str]:
    operands = LEAF_OPERANDS[leaf]
    if not operands:
        yield "No operands."
        return
    yield from ("| operand | format |", "|---|---|")
    yield from (f"| {register.upper()} | {form} |" for register, form in operands.items())


def _facts(leaf: int, steps: LeafSteps) -> Iterator[str]:
    written = [name.upper() for name in REGISTER_NAMES if name.upper() in steps.written]
    hints = [name.upper() for name in REGISTER_NAMES if name.upper() in steps.hints]
    missing = _missing(steps)
    versioned = [name for name, release in RELEASES.items() if leaf in release.versioned_leaves]
    op_states = OP_STATE_ALLOWED.get(leaf)
    sept_states = SEPT_STATE_ALLOWED.get(leaf)
    yield from ("| | |", "|---|---|")
    yield f"| registers it may write | {', '.join(written) or 'none'} |"
    yield f"| `{_MISSING}` names | {', '.join(missing) or 'nothing: never'} |"
    yield f"| removal hint (bit 62) in | {', '.join(hints) or 'none'} |"
    if op_states is not None:
        yield f"| OP_STATEs allowed | {_names(op_states, OP_STATE_NAMES)} |"
    if sept_states is not None:
        yield f"| S-EPT entry states allowed | {_names(sept_states, SEPT_STATE_NAMES)} |"
    yield f"| versions above 0 in | {', '.join(versioned) or 'no release'} |"
    yield f"| before the module is READY | {'allowed' if leaf in BEFORE_READY else 'refused'} |"


def _missing(steps: LeafSteps) -> list[str]:
    """The operands that TDX_MISSING_PAMT_PAGE_PAIR may name."""
    named = [check.details for check in steps.checks if check.status == _MISSING]
    return list(dict.fromkeys(named))


def _names(states: Iterable[int], names: dict[int, str]) -> str:
    return ", ".join(names[state] for state in sorted(states))


def _checks(checks: list[Check]) -> Iterator[str]:
    if not checks:
        yield "None."
        return
    yield from ("| # | status | bits 31:0 | when | in |", "|---|---|---|---|---|")
    number = 0
    for check in checks:
        number += not check.fatal
        status = f"{number} | {check.status}" if not check.fatal else "| "
        details = f"shutdown: {check.fatal}" if check.fatal else check.details
        yield f"| {status} | {details} | {_when(check.when)} | `{check.function}` |"


def _when(conditions: tuple[str, ...]) -> str:
    return " and ".join(_code(text) for text in conditions) or "always"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _locks(locks: list[Lock]) -> Iterator[str]:
    """A line for each function that the leaf calls to take locks, and operand."""
    groups: list[tuple[str, list[str]]] = []
    for lock in locks:
        place = f"{lock.operand + ', ' if lock.operand else ''}`{lock.function}`"
        words = lock.words + (f" (if {_code(lock.when)})" if lock.when else "")
        if groups and groups[-1][0] == place:
            groups[-1][1].append(words)
        else:
            groups.append((place, [words]))
    for number, (place, taken) in enumerate(groups, 1):
        yield f"{number}. {place}: {'; '.join(taken)}"


def _effects(steps: LeafSteps) -> Iterator[str]:
    yield from ("| step | types it leaves | what it does |", "|---|---|---|")
    for effect in steps.effects:
        method = getattr(Pamt, effect.method)
        yield f"| `{effect.method}` | {', '.join(effect.types) or '-'} | {_told(method)} |"


def _releases(fields: set[str]) -> Iterator[str]:
    meanings = _field_meanings()
    yield f"| | {' | '.join(RELEASES)} | |"
    yield "|---|" + "---|" * (len(RELEASES) + 1)
    for name in Release.__dataclass_fields__:
        if name in fields:
            values = [_shown(getattr(release, name)) for release in RELEASES.values()]
            yield f"| `{name}` | {' | '.join(values)} | {meanings.get(name, '')} |"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:#x}" if isinstance(value, int) and value > 1 << 16 else str(value)


def _field_meanings() -> dict[str, str]:
    """What follows each field of Release in its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Release))).body[0]
    meanings: dict[str, str] = {}
    name = ""
    for node in tree.body if isinstance(tree, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            meanings[name] = _one_line(str(node.value.value))
    return meanings


# All of them.


def _readme(steps: dict[int, LeafSteps]) -> str:
    rows = []
    for leaf, found in steps.items():
        hints = ", ".join(n.upper() for n in REGISTER_NAMES if n.upper() in found.hints)
        name = f"[{LEAF_NAMES[leaf]}]({_file(leaf)})"
        what = _docstring(_function(leaf))[0][0]
        missing = ", ".join(_missing(found))
        rows.append(f"| {leaf} | {name} | {what} | {missing or '-'} | {hints or '-'} |\n")
    dispatcher = leaf_steps(plain_function(TdxModule, "admit"), TdxModule)
    return _README.format(
        made=_MADE,
        leaves="".join(rows),
        dispatcher="".join(
            f"| {check.status} | {check.details} | {_when(check.when)} |\n"
            for check in dispatcher.checks
        ),
        before=", ".join(LEAF_NAMES[leaf] for leaf in sorted(BEFORE_READY)),
        blocks="".join(_blocks(steps)),
    )


def _blocks(steps: dict[int, LeafSteps]) -> Iterator[str]:
    """Functions outside the leaves' own files that a table of a page names, in order of name."""
    users: dict[FunctionType, int] = {}
    for found in steps.values():
        named = {check.function for check in found.checks}
        named |= {lock.function for lock in found.locks}
        named |= {effect.method for effect in found.effects}
        for function in found.functions:
            if function.__name__ in named and not _is_of_leaf(function):
                users[function] = users.get(function, 0) + 1
    for function in sorted(users, key=lambda function: function.__qualname__):
        count = users[function]
        used = "1 leaf" if count == 1 else f"{count} leaves"
        name = f"[`{function.__qualname__}`]({_link(function)})"
        yield f"| {name} | {_told(function)} | {used} |\n"


# Words of the code.


def _is_of_leaf(function: FunctionType) -> bool:
    return function.__module__.startswith(_LEAVES)


def _link(function: FunctionType) -> str:
    file = Path(inspect.getfile(function)).relative_to(_PACKAGE)
    return f"../../src/dpamt/{file.as_posix()}"


def _summary(handler: FunctionType) -> str:
    """What the file of a leaf says it is about."""
    return _one_line(str(sys.modules[handler.__module__].__doc__).partition("\n\n")[0])


def _docstring(handler: FunctionType) -> tuple[list[str], str]:
    """(paragraphs, source) of a handler's docstring."""
    text, _, source = inspect.cleandoc(handler.__doc__ or "").partition("Source: ")
    return [_one_line(part) for part in text.split("\n\n") if part.strip()], _one_line(source)


def _told(function: FunctionType) -> str:
    """A docstring in one line of a table; of a function without one, nothing."""
    return _one_line(inspect.cleandoc(function.__doc__ or "")).replace("|", "\\|")


def _one_line(text: str) -> str:
    """Docstring marks as Markdown has them."""
    line = " ".join(text.split()).replace("``", "`")
    for role in (":mod:", ":func:", ":meth:", ":data:", ":class:"):
        line = line.replace(role, "")
    return line


if __name__ == "__main__":
    main(sys.argv[1:])
