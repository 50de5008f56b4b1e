"""An image as a design: get and put are its own instructions, all around them is the model.

What a design is, :mod:`dpamt.host.designs.base` says; every program and trial that runs one runs an
image, KVM's fault path and teardown among them.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.status import STATUS_NAMES, status_name
from dpamt.errors import InputError
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.kernel_image.elf import ElfImage, plain_name
from dpamt.kernel_image.linked import LinkedImage
from dpamt.verify.machine_code.code import MachineCode
from dpamt.verify.machine_code.functions import HELPERS, ImageFunctions, helpers_of
from dpamt.verify.machine_code.memory import COUNT_NAMES
from dpamt.verify.machine_code.memory_model import MODELS, TSO
from dpamt.verify.machine_code.places import Places
from dpamt.verify.machine_code.reach import is_taken_by_call

GET: Final = "tdx_pamt_get"
PUT: Final = "tdx_pamt_put"
ROLES: Final = ("get", "put", "counts")
"""What ``--functions`` may name: two functions, and the counters."""
_TOLERATE: Final = "tolerate"
_SET: Final = "set"
_NAME: Final = r"(\w+:)?[A-Za-z_][\w.]*"
"""Of a symbol, or of a module's that goes by MODULE:NAME."""
_VARIABLE: Final = re.compile(_NAME, re.ASCII)
_VALUE: Final = re.compile(rf"-?\d+|0x[0-9a-fA-F]+|{_NAME}", re.ASCII)
_BASE: Final = "merged"
"""The design whose file says what is around get and put: what was merged."""


Answers = frozenset[tuple[int, int]]
"""(leaf, status) of the module."""


def how(
    model: str,
    functions: dict[str, str],
    tolerated: Answers = frozenset(),
    values: dict[str, str] | None = None,
) -> str:
    """How an image is read, as one text: ``tso,get=SYMBOL,tolerate=LEAF=STATUS,set=NAME=VALUE``."""
    named = [f"{role}={name}" for role, name in sorted(functions.items())]
    benign = [
        f"{_TOLERATE}={LEAF_NAMES[leaf]}={status_name(status)}"
        for leaf, status in sorted(tolerated)
    ]
    given = [f"{_SET}={name}={value}" for name, value in sorted((values or {}).items())]
    return ",".join([model, *named, *benign, *given])


def read_how(text: str) -> tuple[dict[str, str], str, Answers, dict[str, str]]:
    """(functions, model, tolerated, values) of such a text.  Raises InputError for another one."""
    model, *parts = text.split(",")
    named = [part.partition("=")[::2] for part in parts]
    functions = {role: name for role, name in named if role not in (_TOLERATE, _SET)}
    values = dict(value_of(given) for role, given in named if role == _SET)
    tolerated = [answer_of(answer) for role, answer in named if role == _TOLERATE]
    if model not in MODELS or not all(role in ROLES and name for role, name in functions.items()):
        raise InputError(f"image {text!r}: expected sc or tso, and {', '.join(ROLES)} with names")
    return functions, model, frozenset(tolerated), values


def value_of(text: str) -> tuple[str, str]:
    """``NAME=VALUE`` of a variable of the image.  Raises InputError for another text."""
    name, _, value = text.partition("=")
    if not _VARIABLE.fullmatch(name) or not _VALUE.fullmatch(value):
        raise InputError(f"{text!r}: expected NAME=VALUE, a number or the name of a symbol")
    return name, value


def answer_of(text: str) -> tuple[int, int]:
    """``TDH.PHYMEM.PAMT.ADD=TDX_HPA_RANGE_NOT_FREE`` as numbers.  Raises InputError."""
    leaf, _, status = text.partition("=")
    leaves = {name: number for number, name in LEAF_NAMES.items()}
    statuses = {name: number for number, name in STATUS_NAMES.items()}
    if leaf not in leaves or status not in statuses:
        raise InputError(
            f"{text!r}: expected LEAF=STATUS, such as TDH.PHYMEM.PAMT.ADD=TDX_HPA_RANGE_NOT_FREE"
        )
    return leaves[leaf], statuses[status]


def machine_design(
    path: Path,
    functions: dict[str, str] | None = None,
    model: str = TSO,
    tolerated: Answers = frozenset(),
    values: dict[str, str] | None = None,
    modules: Sequence[str] = (),
) -> Design:
    """The design that an image's get and put are.

    ``functions`` names them where they are called otherwise: get, put, counts (the counters);
    ``model`` is that of memory; ``tolerated`` are answers of the module that the code takes as
    benign, (leaf, status); ``values`` are those of variables, by name, a number or a symbol;
    ``modules`` are files that are linked into the kernel, in this order.
    Raises InputError for an image without them, and for a module that is none or has no part in it.
    """
    functions = functions or {}
    image = LinkedImage(path, [Path(one) for one in modules]) if modules else ElfImage(path)
    files = ", ".join(str(file.path) for file in image.files())
    get, put = functions.get("get", GET), functions.get("put", PUT)
    for role, name in (("get", get), ("put", put)):
        symbol = image.symbols.get(name)
        if symbol is None or image.section_at(symbol.address) is None:
            raise InputError(
                f"{files}: no function {name}; expected a kernel with Dynamic PAMT, or "
                f"--functions {role}=SYMBOL, and --module KO where it lies in one"
            )
    counts = functions.get("counts") or _counters(image, get)
    if functions.get("counts") and image.address_of(counts) is None:
        raise InputError(f"{files}: no variable {counts}; expected that of the counters")
    if not counts:
        raise InputError(
            f"{files}: no variable {' or '.join(COUNT_NAMES)}; expected --functions counts=SYMBOL, "
            "the counters of 2M regions or a pointer to them"
        )
    asked = [get, put, counts, *helpers_of(image, get).values(), *(values or {})]
    if isinstance(image, LinkedImage):
        image.check_used([*asked, *(values or {}).values()])
    code = MachineCode(Places(image, counts, model == TSO, values or {}), model)

    run = ImageFunctions(code, get, put)
    lock = "dpamt_lock" if plain_name(counts).startswith("dpamt") else "pamt_lock"
    is_two = isinstance(image, LinkedImage) and lock in image.twice
    whose = f" of {image.path_at(image.symbols[lock].address).name}" if is_two else ""
    code.shares_pamt_lock = is_taken_by_call(code.places, (get, put), lock)
    code.said.append(
        f"a trial's DEMOTE and its change of the count are dpamt's own code, under {lock}"
        if code.shares_pamt_lock
        else f"no trial has a DEMOTE: get and put take no {lock}{whose} by a call"
    )
    if isinstance(image, LinkedImage):
        code.said += image.said_of(asked)
    missing = [name for name in HELPERS if not run.has(name)]
    if missing:
        files = "file of get or a later one" if modules else "file"
        code.said.append(f"not in the {files}, dpamt's own in their place: {', '.join(missing)}")
    return replace(
        load_design(_BASE),
        name=" + ".join(file.path.name for file in image.files()),
        source=str(path),
        tdx_pamt_get=run.get,
        tdx_pamt_put=run.put,
        init_pamt_metadata=run.prepare,
        dpamt_names=plain_name(counts).startswith("dpamt"),
        tolerated=tolerated,
        code=code,
        helpers=run.helpers(),
    )


def _counters(image: ElfImage, get: str) -> str:
    """The counters by their name in the kernel, those in the file of get first; empty: none."""
    if isinstance(image, LinkedImage):
        found = image.beside(get, COUNT_NAMES)
        if found:
            return found
    return next((name for name in COUNT_NAMES if image.address_of(name) is not None), "")
