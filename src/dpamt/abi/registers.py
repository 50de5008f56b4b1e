"""The register file that crosses the SEAMCALL wall, and the type of the wall itself.

Linux calls ``seamcall(fn, args)`` with a ``struct tdx_module_args``; the module answers with RAX
and writes its outputs into the same structure.  So does dpamt.  A register that a leaf does not
define as output comes back unchanged.

Source: Linux arch/x86/include/asm/shared/tdx.h (struct tdx_module_args).
"""

from collections.abc import Callable
from typing import Final

REGISTER_NAMES: Final = ("rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")
"""The operand registers of a SEAMCALL, in the order of ``struct tdx_module_args``."""

U64_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


class TdxModuleArgs:
    """Registers RCX, RDX, R8 to R13 of one SEAMCALL or TDCALL: unsigned 64-bit integers.

    A register that is not assigned is 0.  The class attributes are the defaults, so that making
    one costs nothing for the registers a leaf does not use.
    """

    rcx: int = 0
    rdx: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0

    def as_tuple(self) -> tuple[int, ...]:
        """The eight registers in the order of :data:`REGISTER_NAMES`."""
        return (self.rcx, self.rdx, self.r8, self.r9, self.r10, self.r11, self.r12, self.r13)

    @classmethod
    def of(cls, **registers: int) -> "TdxModuleArgs":
        """Registers by name; for callers that are not on a hot path.

        Raises TypeError for a name that is not a register, ValueError for a value that is not an
        unsigned 64-bit integer.
        """
        args = cls()
        for name, value in registers.items():
            if name not in REGISTER_NAMES:
                raise TypeError(f"{name} is not an operand register of a SEAMCALL")
            if not 0 <= value <= U64_MASK:
                raise ValueError(f"{name}={value:#x} is not an unsigned 64-bit integer")
            setattr(args, name, value)
        return args

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TdxModuleArgs) and self.as_tuple() == other.as_tuple()

    __hash__ = None  # type: ignore[assignment]  # it changes under the call

    def __repr__(self) -> str:
        shown = (
            f"{name}={value:#x}"
            for name, value in zip(REGISTER_NAMES, self.as_tuple(), strict=True)
            if value
        )
        return f"TdxModuleArgs({', '.join(shown)})"


SeamCall = Callable[[int, TdxModuleArgs], int]
"""The wall: ``status = seamcall(rax, args)`` on one logical processor.

``rax`` is leaf number and version (:data:`dpamt.abi.leaves.RAX_VERSION_SHIFT`), the result is the
64-bit status, ``args`` holds the operands before and the outputs after the call.
"""
