"""TD_PARAMS: the layout against Linux's offsets, and packing against unpacking."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from dpamt.abi.td_params import TD_PARAMS_BYTES, TdParams

LINUX_OFFSETS = {
    "attributes": (0, "<Q"),
    "xfam": (8, "<Q"),
    "max_vcpus": (16, "<H"),
    "eptp_controls": (24, "<Q"),
    "config_flags": (32, "<Q"),
    "tsc_frequency": (40, "<H"),
}
"""offsetof() in struct td_params, arch/x86/kvm/vmx/tdx_arch.h."""


@given(st.data())
def test_fields_lie_where_linux_puts_them(data: st.DataObject) -> None:
    limits = {"<Q": 2**64 - 1, "<H": 2**16 - 1}
    values = {
        name: data.draw(st.integers(0, limits[kind]), label=name)
        for name, (_, kind) in LINUX_OFFSETS.items()
    }
    params = TdParams()
    for name, value in values.items():
        setattr(params, name, value)
    packed = params.pack()
    assert len(packed) == TD_PARAMS_BYTES
    for name, (offset, kind) in LINUX_OFFSETS.items():
        assert struct.unpack_from(kind, packed, offset) == (values[name],)


@given(st.binary(min_size=TD_PARAMS_BYTES, max_size=TD_PARAMS_BYTES))
def test_every_byte_survives_unpacking_and_packing(data: bytes) -> None:
    assert TdParams.unpack(data).pack() == data
