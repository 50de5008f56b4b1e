"""The register file of a SEAMCALL."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.abi.registers import REGISTER_NAMES, U64_MASK, TdxModuleArgs

U64 = st.integers(0, U64_MASK)


@given(st.dictionaries(st.sampled_from(REGISTER_NAMES), U64))
def test_named_registers_are_kept_and_the_rest_is_zero(registers: dict[str, int]) -> None:
    args = TdxModuleArgs.of(**registers)
    assert args.as_tuple() == tuple(registers.get(name, 0) for name in REGISTER_NAMES)
    assert args == TdxModuleArgs.of(**registers)
    assert all(f"{name}={value:#x}" in repr(args) for name, value in registers.items() if value)


def test_one_call_does_not_see_the_registers_of_another() -> None:
    first = TdxModuleArgs()
    first.rcx = 7
    assert TdxModuleArgs().rcx == 0


def test_what_is_no_register_or_no_u64_is_refused() -> None:
    with pytest.raises(TypeError, match="rax is not an operand register"):
        TdxModuleArgs.of(rax=1)
    for value in (-1, 1 << 64):
        with pytest.raises(ValueError, match="not an unsigned 64-bit integer"):
            TdxModuleArgs.of(rcx=value)
