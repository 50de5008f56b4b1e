"""`dpamt VERB ...`: finds the verb's file, and turns what goes wrong into one line and a code.

Exit codes: 0 clean, 1 a finding, 2 bad usage or input, 3 dpamt itself is wrong; 130 interrupted.
Nothing heavy is imported here: help and version come at the price of an interpreter's start.
"""

import gc
import os
import sys

from dpamt.cli.streams import usable_streams
from dpamt.cli.system_errors import system_error  # now: later no file may be opened any more
from dpamt.errors import DpamtError
from dpamt.visible import visible

COLLECT_AFTER = (100_000, 20, 100)
"""Thresholds of the cyclic garbage collector: a host, or a search, is made of many small objects
that last as long as it does."""
COLLECT_AFTER_IN_VERIFY = (1_000_000, *COLLECT_AFTER[1:])
"""What learns threads makes and drops more of them than others: a seventh of its time, 20 MiB."""

_LONGEST_WORD = 600
"""Characters of one word of a message; a path may have several hundred."""

VERBS = {
    "run": "run a host and its TDs: static against Dynamic PAMT, phase by phase",
    "verify": "run a design through every interleaving: what holds, or how it fails",
    "boot": "boot a real kernel in QEMU; the model answers its SEAMCALLs",
    "plan": "size hosts: whether TDX comes up, what Dynamic PAMT saves or costs",
    "trace": "judge a recording of a real host's SEAMCALLs",
    "expect": "print the numbers that a test of Dynamic PAMT must see",
    "conform": "replay recorded SEAMCALLs against the model and judge its answers",
    "decode": "explain a status, a leaf, an operand, a field or a whole kernel log",
    "list": "list designs, trials, hosts, scenarios, releases, leaves",
}
"""Verb to its line in the help; its code is ``dpamt.cli.<verb>.main(arguments)``."""

_HELP = """\
usage: dpamt VERB [OPTIONS]

Intel TDX Dynamic PAMT without the hardware.

{verbs}

  dpamt VERB --help    what a verb takes
  dpamt --version      which dpamt this is

Exit codes: 0 clean, 1 a finding, 2 bad usage or input, 3 dpamt itself is wrong.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    with usable_streams():
        return _main(sys.argv[1:] if arguments is None else arguments)


def _main(arguments: list[str]) -> int:
    stdout = sys.stdout
    try:
        try:
            code = _dispatch(arguments)
            sys.stdout.flush()
        finally:
            sys.stdout = stdout  # a verb that writes a file there prints elsewhere
        stdout.flush()
        return code
    except DpamtError as error:
        return _failed(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except BrokenPipeError:
        # Whoever read us has gone; nothing may complain when the interpreter flushes again.
        _drop_output()
        return 141
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    said = system_error(error)
    if said is None and isinstance(error, OSError):
        if error.filename is None:  # of a stream, not of a file
            said = f"output: {error.strerror or error}; expected somewhere to write to"
        elif not _is_own(str(error.filename)):
            said = f"{error.filename}: {error.strerror}; expected a file to work with"
    if said is None and isinstance(error, ModuleNotFoundError):
        from dpamt.cli.extras import EXTRAS, needs

        if error.name in EXTRAS:
            said = str(needs("this", error.name))
    if said is not None:
        return _failed(said, 2)
    if os.environ.get("DPAMT_TRACEBACK"):
        raise error
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    return _failed(f"internal error: {what} (DPAMT_TRACEBACK=1 shows where)", 3)


def _dispatch(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    if verb in ("-V", "--version"):
        from dpamt import __version__

        sys.stdout.write(f"dpamt {__version__}\n")
        return 0
    if verb not in VERBS:
        return _unknown(verb)
    from importlib import import_module

    gc.set_threshold(*(COLLECT_AFTER_IN_VERIFY if verb == "verify" else COLLECT_AFTER))
    code: int = import_module(f"dpamt.cli.{verb}").main(arguments[1:])
    _say_what_was_written()
    return code


def _say_what_was_written() -> None:
    """One line on standard error, below the report: standard output is the result's alone."""
    from dpamt.cli.parser import written

    if files := written():
        sys.stdout.flush()
        line = visible(", ".join(" ".join(map(_short, file.split())) for file in files))
        sys.stderr.write(f"dpamt: wrote {line}\n")


def _help() -> str:
    return _HELP.format(verbs="\n".join(f"  {verb:8} {about}" for verb, about in VERBS.items()))


def _unknown(verb: str) -> int:
    what = f"no verb {verb!r}" if verb else "no verb given"
    return _failed(f"{what}; expected one of {', '.join(VERBS)} (dpamt --help)", 2)


def _failed(message: str, code: int) -> int:
    """One line, whatever the message has in it."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    line = visible(" ".join(map(_short, message.split())))
    sys.stderr.write(f"dpamt: {line}\n")
    return code


def _is_own(name: str) -> bool:
    """Whether a file came with dpamt: the user cannot help it if one cannot be read."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.abspath(name).startswith(package + os.sep)


def _short(word: str) -> str:
    """What was given may be longer than any screen."""
    if len(word) <= _LONGEST_WORD:
        return word
    return f"{word[: _LONGEST_WORD // 2]}...{word[-_LONGEST_WORD // 4 :]}"


def _drop_output() -> None:
    """Whatever is still to be written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
