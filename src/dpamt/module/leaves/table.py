"""The one table of the leaves that are answered: leaf number to function.

A handler is found by its name: the leaf TDH.MEM.PAGE.AUG is ``tdh_mem_page_aug`` in a file of this
folder.  So whoever adds a leaf writes its handler and its row in ``abi/leaf_table.py``, and nothing
here.  A leaf is absent where the model does not have it; it is then answered as an unknown one.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Final

from dpamt.abi import leaves as leaf
from dpamt.abi.metadata import TDX_FEATURES0_SYS_DISABLE
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module import leaves
from dpamt.module.processor import LogicalProcessor

Handler = Callable[[LogicalProcessor, TdxModuleArgs], None]


def _found() -> Iterator[tuple[int, Handler]]:
    """Raises ImportError for a ``tdh_`` function that is named after no leaf."""
    numbers = {name.lower().replace(".", "_"): n for n, name in leaf.LEAF_NAMES.items()}
    for file in iter_modules(leaves.__path__, f"{leaves.__name__}."):
        if file.name == __name__:
            continue
        for name, handler in vars(import_module(file.name)).items():
            if name.startswith("tdh_") and handler.__module__ == file.name:
                if name not in numbers:
                    raise ImportError(
                        f"{file.name}: {name} is named after no leaf of abi/leaves.py"
                    )
                yield numbers[name], handler


HANDLERS: Final[dict[int, Handler]] = dict(sorted(_found()))

ANNOUNCED: Final = {leaf.TDH_SYS_DISABLE: TDX_FEATURES0_SYS_DISABLE}
"""Leaves that a release has only with a bit of TDX_FEATURES0."""

BEFORE_READY: Final = frozenset(
    {
        leaf.TDH_SYS_INFO,
        leaf.TDH_SYS_RD,
        leaf.TDH_SYS_RDALL,
        leaf.TDH_SYS_INIT,
        leaf.TDH_SYS_LP_INIT,
        leaf.TDH_SYS_CONFIG,
        leaf.TDH_SYS_KEY_CONFIG,
        leaf.TDH_SYS_LP_SHUTDOWN,
        leaf.TDH_SYS_UPDATE,
    }
)
"""Leaves that the dispatcher lets through before the system state is READY.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdx_vmm_dispatcher.c].
"""
