"""Intel TDX Dynamic PAMT without the hardware: a TDX module, a Linux host, the wall between them.

The names here are a handful; everything else is imported from its room (``dpamt.host``,
``dpamt.module``, ``dpamt.platform``, ...).
"""

TYPE_CHECKING = False  # typing itself costs more to import than all of this

if TYPE_CHECKING:
    from dpamt.host.core.kernel import Kernel
    from dpamt.host.designs.load import load_design
    from dpamt.module.module import TdxModule
    from dpamt.platform.read_machine import read_machine
    from dpamt.run.api import run_scenario
    from dpamt.run.scenario import load_scenario
    from dpamt.run.world import World

__version__ = "0.1.0"

__all__ = [
    "Kernel",
    "TdxModule",
    "World",
    "__version__",
    "load_design",
    "load_scenario",
    "read_machine",
    "run_scenario",
]

_HOMES = {
    "Kernel": "dpamt.host.core.kernel",
    "TdxModule": "dpamt.module.module",
    "World": "dpamt.run.world",
    "load_design": "dpamt.host.designs.load",
    "load_scenario": "dpamt.run.scenario",
    "read_machine": "dpamt.platform.read_machine",
    "run_scenario": "dpamt.run.api",
}
"""Where each name is imported from when it is first asked for."""


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'dpamt' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
