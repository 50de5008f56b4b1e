"""Errors on the host's side: kernel errno numbers and predicates over SEAMCALL statuses.

A function of the host that can fail returns 0 or a negative errno, as in Linux.

Source: Linux include/uapi/asm-generic/errno-base.h; `[PATCHv2 00/12] TDX: Enable Dynamic PAMT`
(2025-06-09), patch 1, the consolidated tdx_errno.h.
"""

from typing import Final

from dpamt.abi.status import (
    STATUS_MASK,
    TDX_HPA_RANGE_NOT_FREE,
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
    TDX_SUCCESS,
)
from dpamt.abi.status_details import SOFTWARE_ERROR

EINTR: Final = 4
EIO: Final = 5
EAGAIN: Final = 11
ENOMEM: Final = 12
EFAULT: Final = 14
EBUSY: Final = 16
EINVAL: Final = 22
ENOSPC: Final = 28
EOPNOTSUPP: Final = 95

ERRNO_NAMES: Final[dict[int, str]] = {
    number: name
    for name, number in globals().items()
    if name.startswith("E") and isinstance(number, int)
}
"""Errno number (positive) to its name."""

TDX_SW_ERROR: Final = SOFTWARE_ERROR
"""Bits of a status that software made up (the SEAMCALL itself failed), not the module."""


def tdx_status(status: int) -> int:
    """Bits 63:32 in place, the details cleared."""
    return status & STATUS_MASK


def is_tdx_success(status: int) -> bool:
    """Whether the status code is TDX_SUCCESS, whatever the details."""
    return status & STATUS_MASK == TDX_SUCCESS


def is_tdx_sw_error(status: int) -> bool:
    """Whether the SEAMCALL instruction failed: bit 63 and all of bits 47:40."""
    return status & TDX_SW_ERROR == TDX_SW_ERROR


def is_tdx_rnd_no_entropy(status: int) -> bool:
    """Whether the module had no random number at hand."""
    return status & STATUS_MASK == TDX_RND_NO_ENTROPY


def is_tdx_operand_invalid(status: int) -> bool:
    """Whether an operand was refused."""
    return status & STATUS_MASK == TDX_OPERAND_INVALID


def is_tdx_operand_busy(status: int) -> bool:
    """Whether a lock of the module was held by someone else."""
    return status & STATUS_MASK == TDX_OPERAND_BUSY


def is_tdx_missing_pamt_page_pair(status: int) -> bool:
    """Whether the region of a page that the module was to use had no page pair."""
    return status & STATUS_MASK == TDX_MISSING_PAMT_PAGE_PAIR


def is_tdx_hpa_range_not_free(status: int) -> bool:
    """Whether PAMT.ADD found a page pair, or a leaf, in its region."""
    return status & STATUS_MASK == TDX_HPA_RANGE_NOT_FREE
