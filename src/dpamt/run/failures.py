"""How a run can fail other than by bad text: each carries the kernel log up to then."""

from collections.abc import Iterable
from errno import errorcode

from dpamt.errors import Finding, InputError
from dpamt.host.designs.load import error_text


class HostTooSmall(InputError):  # noqa: N818  (named for what is wrong, as its base is)
    """The machine has not got what the scenario asks of it: memory or KeyIDs."""

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


class KernelFailed(Finding):
    """The kernel gave up, as Linux does in that situation; its log says why."""

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


def errno_text(error: int) -> str:
    """``-ENOMEM (-12)``."""
    return f"-{errorcode.get(-error, 'E?')} ({error})"


def blame_design(error: BaseException, sources: Iterable[str]) -> InputError | None:
    """The error as the user's own: where a design file it went through raised it; else None."""
    named = set(sources)
    blamed: InputError | None = None
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file in named:
            blamed = InputError(
                f"{file}:{trace.tb_lineno}: {error_text(error)}; expected a design that runs"
            )
        trace = trace.tb_next
    return blamed
