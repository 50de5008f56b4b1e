"""An image as a design: get and put are its own instructions, all around them is the model.

What a design is, :mod:`dpamt.host.designs.base` says; every program and trial that runs one runs an
image, KVM's fault path and teardown among them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

from dpamt.errors import InputError
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.kernel_image.elf import ElfImage
from dpamt.verify.machine_code.cache import bytes_of_cache, cache_after
from dpamt.verify.machine_code.code import MODELS, TSO, MachineCode
from dpamt.verify.machine_code.memory import ARGUMENTS, COUNT_NAMES
from dpamt.verify.machine_code.places import Places

GET: Final = "tdx_pamt_get"
PUT: Final = "tdx_pamt_put"
ROLES: Final = ("get", "put", "counts")
"""What ``--functions`` may name: two functions, and the counters."""
_BASE: Final = "merged"
"""The design whose file says what is around get and put: what was merged."""


def how(model: str, functions: dict[str, str]) -> str:
    """How an image is read, as one text: ``tso,get=SYMBOL``."""
    return ",".join([model, *(f"{role}={name}" for role, name in sorted(functions.items()))])


def read_how(text: str) -> tuple[dict[str, str], str]:
    """(functions, model) of such a text.  Raises InputError for another one."""
    model, *parts = text.split(",")
    functions = dict(part.partition("=")[::2] for part in parts)
    if model not in MODELS or not all(role in ROLES and name for role, name in functions.items()):
        raise InputError(f"image {text!r}: expected sc or tso, and {', '.join(ROLES)} with names")
    return functions, model


def machine_design(
    path: Path,
    functions: dict[str, str] | None = None,
    model: str = TSO,
    tolerated: frozenset[tuple[int, int]] = frozenset(),
) -> Design:
    """The design that an image's get and put are.

    ``functions`` names them where they are called otherwise: get, put, counts (the counters);
    ``model`` is that of memory; ``tolerated`` are answers of the module that the code takes as
    benign, (leaf, status).
    Raises InputError for an image without them.
    """
    functions = functions or {}
    image = ElfImage(path)
    get, put = functions.get("get", GET), functions.get("put", PUT)
    for role, name in (("get", get), ("put", put)):
        symbol = image.symbols.get(name)
        if symbol is None or image.section_at(symbol.address) is None:
            raise InputError(
                f"{path}: no function {name}; expected a kernel with Dynamic PAMT, or "
                f"--functions {role}=SYMBOL"
            )
    counts = functions.get("counts") or next(
        (name for name in COUNT_NAMES if image.address_of(name) is not None), ""
    )
    if functions.get("counts") and image.address_of(counts) is None:
        raise InputError(f"{path}: no variable {counts}; expected that of the counters")
    if not counts:
        raise InputError(
            f"{path}: no variable {' or '.join(COUNT_NAMES)}; expected --functions counts=SYMBOL, "
            "the counters of 2M regions or a pointer to them"
        )
    code = MachineCode(Places(image, counts, model == TSO), model)

    def prepare(kernel: Kernel) -> int:
        code.prepare(kernel)
        return 0

    def run_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
        own = bytes_of_cache(cache)
        place = code.call(kernel, cpu, get, (pfn, ARGUMENTS if cache is not None else 0), own)
        cache_after(code.places, place, cache)
        return code.value(place)

    def run_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
        code.call(kernel, cpu, put, (pfn,))

    return replace(
        load_design(_BASE),
        name=path.name,
        source=str(path),
        tdx_pamt_get=run_get,
        tdx_pamt_put=run_put,
        init_pamt_metadata=prepare,
        dpamt_names=counts.startswith("dpamt"),
        tolerated=tolerated,
        code=code,
    )
