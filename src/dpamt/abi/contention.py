"""What each leaf may meet that is no fault of its caller: a lock held, no entropy, an interrupt.

Made from the rows of :mod:`dpamt.abi.leaf_table`.
"""

from typing import Final

from dpamt.abi.leaf_table import LEAF_ROWS
from dpamt.abi.leaves import TDH_VP_ENTER

BUSY_OPERANDS: Final = {number: row.busy for number, row in LEAF_ROWS.items() if row.busy}
"""Operands that TDX_OPERAND_BUSY of a leaf can name, in any version, in the order of its locks."""

DRAWS_ENTROPY: Final = frozenset(number for number, row in LEAF_ROWS.items() if row.draws_entropy)
"""Leaves that draw random numbers: TDX_RND_NO_ENTROPY."""

INTERRUPTIBLE: Final = frozenset(number for number, row in LEAF_ROWS.items() if row.interruptible)
"""Leaves that look for a pending interrupt, in some release, version or shape of the TD."""

INTERRUPTED: Final = INTERRUPTIBLE - {TDH_VP_ENTER}
"""Those of them that answer TDX_INTERRUPTED_*; of VP.ENTER an interrupt is an exit."""

CONFIGURES_KEYS: Final = frozenset(
    number for number, row in LEAF_ROWS.items() if row.configures_keys
)
"""Leaves that program the key engine: TDX_KEY_GENERATION_FAILED."""
