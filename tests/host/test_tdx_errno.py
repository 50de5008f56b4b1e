"""Predicates over statuses, against the table of all statuses."""

import pytest

from dpamt.abi.status import STATUS_NAMES
from dpamt.host.core import tdx_errno

PREDICATES = {
    tdx_errno.is_tdx_success: "TDX_SUCCESS",
    tdx_errno.is_tdx_rnd_no_entropy: "TDX_RND_NO_ENTROPY",
    tdx_errno.is_tdx_operand_invalid: "TDX_OPERAND_INVALID",
    tdx_errno.is_tdx_operand_busy: "TDX_OPERAND_BUSY",
    tdx_errno.is_tdx_hpa_range_not_free: "TDX_HPA_RANGE_NOT_FREE",
}


@pytest.mark.parametrize("details", [0, 1, 0xFFFFFFFF])
def test_each_predicate_holds_for_its_status_alone(details: int) -> None:
    for predicate, name in PREDICATES.items():
        true_for = [known for value, known in STATUS_NAMES.items() if predicate(value | details)]
        assert true_for == [name]


def test_a_status_of_the_module_is_no_software_error() -> None:
    assert not any(tdx_errno.is_tdx_sw_error(status) for status in STATUS_NAMES)
    assert tdx_errno.is_tdx_sw_error(0x8000FF00_00000000 | 13)
    assert not tdx_errno.is_tdx_sw_error(0x80000F00_00000000)


def test_errno_names() -> None:
    assert tdx_errno.ERRNO_NAMES[28] == "ENOSPC"
    assert tdx_errno.ERRNO_NAMES[12] == "ENOMEM"
