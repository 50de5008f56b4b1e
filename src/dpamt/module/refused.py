"""How a leaf ends early: with a status that is not plain success."""


class Refused(Exception):  # noqa: N818  (an answer of the module, not an error)
    """Raised by a check; the dispatcher returns its status in RAX.

    ``status`` is the whole 64-bit value, operand id or other details included.  Output registers
    are whatever the leaf has written into its arguments by then.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
