"""A logical processor in SEAM root mode: the dispatcher, and what one SEAMCALL holds.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdx_vmm_dispatcher.c].
"""

from typing import TYPE_CHECKING

from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import SYS_READY
from dpamt.abi.status import TDX_SUCCESS
from dpamt.module.refused import Refused
from dpamt.sync import LockSet

if TYPE_CHECKING:
    from dpamt.module.module import TdxModule


class LogicalProcessor:
    """One logical processor; ``version`` is that of the SEAMCALL it is in (RAX bits 23:16)."""

    __slots__ = (
        "index",
        "live_headers",
        "locks",
        "module",
        "package",
        "pamt",
        "ready_handlers",
        "regions",
        "sys_state",
        "tds",
        "version",
    )

    def __init__(self, module: "TdxModule", index: int, package: int) -> None:
        self.module = module
        self.index = index
        self.package = package
        self.pamt = module.pamt
        self.regions = module.pamt.regions
        self.tds = module.tds
        self.live_headers = module.live_headers
        self.locks: LockSet = module.shared.lock_set()
        self.version = 0
        self.ready_handlers = module.ready_handlers
        self.sys_state = module.sys_state

    def seamcall(self, rax: int, args: TdxModuleArgs) -> int:
        """Answer one SEAMCALL: the status; outputs go into ``args``.

        Raises ModuleFatal where the real module would shut down; its locks stay held, as nothing
        runs there any more to release them.
        """
        handler = self.ready_handlers.get(rax)
        state = self.sys_state.load()
        status = TDX_SUCCESS
        try:
            if handler is None or state != SYS_READY:
                self._call_admitted(rax, args)
            else:
                handler(self, args)
        except Refused as refused:
            status = refused.status
        self.locks.release_all()
        return status

    def _call_admitted(self, rax: int, args: TdxModuleArgs) -> None:
        """A SEAMCALL that needs all of the dispatcher's checks; ``version`` is 0 again after it."""
        handler = self.module.admit(self, rax)
        try:
            handler(self, args)
        finally:
            self.version = 0
