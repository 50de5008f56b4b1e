"""What kills a real machine: the module found its own metadata impossible and shut down."""

from dpamt.errors import Finding


class ModuleFatal(Finding):
    """The real module would have shut down fatally here.

    ``reason`` says what it met, ``state`` carries the numbers (addresses in bytes, counts in
    pages) that show how.
    """

    def __init__(self, reason: str, **state: int) -> None:
        shown = ", ".join(f"{name}={value:#x}" for name, value in state.items())
        super().__init__(f"TDX module fatal error: {reason} ({shown})")
        self.reason = reason
        self.state = state
