"""The argument parser that all verbs use.

Its refusals are one line.  It knows which options name files, so that no command destroys one
(:mod:`dpamt.files`), and which have an effect only with others, so that none is dropped silently.
"""

import argparse
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from dpamt.errors import InputError

if TYPE_CHECKING:
    from dpamt.files import Output, OutputFolder

_GIVEN = "options given so far"
_ODD_NUMBER = re.compile(r"(?=.*(?:_|[^\x00-\x7f]))[+-]?[\d_.]*\d[\d_.]*")
FORCE_HELP = "replace a file that dpamt did not write (docs/outputs.md)"
_SAYS_SO_ITSELF = "checkpoint"
"""A kind of file of which the command says where it is, and how to go on from it."""

_asked_for: "list[Output | OutputFolder]" = []
"""The files that the command which runs was asked to write."""


def written() -> list[str]:
    """The files that the last command has written, as its options name them."""
    return [one.path for one in _asked_for if one.written]


class _Once(argparse._StoreAction):
    """An option that takes one value: a second one would be dropped, or drop the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None:
            given = vars(namespace).setdefault(_GIVEN, {})
            if self.dest in given:
                parser.error(f"{option_string} is given twice; expected it once")
            given[self.dest] = True
        super().__call__(parser, namespace, values, option_string)


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print its usage and leave.

    A verb declares what it reads by :meth:`add_input` and what it writes by :meth:`add_output` and
    :meth:`add_output_folder`; the options it gets are an ``Output`` or an ``OutputFolder``, checked
    against everything else that the command reads and writes.
    """

    def __init__(self, **about: Any) -> None:
        super().__init__(**about, allow_abbrev=False)
        self.register("action", None, _Once)
        self.register("action", "store", _Once)
        self._inputs: list[tuple[argparse.Action, Callable[[str], str]]] = []
        self._outputs: list[tuple[argparse.Action, str, tuple[str, ...] | None]] = []
        self._go_on: dict[str, str] = {}
        self._with: list[tuple[str, tuple[str, ...]]] = []
        self._without: list[tuple[str, tuple[str, ...], str]] = []

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        raise InputError(f"{self.prog.removeprefix('dpamt ')}: {message} ({self.prog} --help)")

    def print_help(self, file: Any = None) -> None:
        """To standard output; argparse's own drops what a full disk does not take."""
        (file or sys.stdout).write(self.format_help())
        (file or sys.stdout).flush()

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """As argparse has it, less what Python reads and nobody means: ``1_0`` as 10, and digits
        of other scripts.  An option without its value is refused."""
        name = _name(action)
        if not arg_string.strip() and action.option_strings and action.default != "":
            self.error(f"argument {name}: nothing given; expected {action.metavar}")
        if action.option_strings and _ODD_NUMBER.fullmatch(arg_string):
            self.error(f"argument {name}: {arg_string!r}; expected a number in digits 0 to 9")
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            # The name of a type says what is expected; argparse's own words say what is invalid.
            wanted = getattr(action.type, "__name__", action.metavar)
            self.error(f"argument {error.argument_name}: {arg_string!r}; expected {wanted}")

    def add_input(
        self,
        *flags: str,
        as_path: Callable[[str], str] = str,
        group: argparse._ArgumentGroup | None = None,
        **about: Any,
    ) -> argparse.Action:
        """An argument that names a file to read, or may name one."""
        action = (group or self).add_argument(*flags, **about)
        self._inputs.append((action, as_path))
        return action

    def add_output(
        self, *flags: str, kind: str, goes_on: str | None = None, **about: Any
    ) -> argparse.Action:
        """An option that names a file to write, of a kind of :data:`dpamt.own_files.KINDS`.

        ``goes_on``: the option whose file is read and then written on, as if this were not given.
        """
        action = self.add_argument(*flags, metavar="FILE", **about)
        if goes_on is not None:
            self._go_on[action.dest] = goes_on
        self._outputs.append((action, kind, None))
        self._add_force()
        return action

    def add_output_folder(
        self,
        *flags: str,
        kind: str,
        names: Sequence[str],
        group: argparse._ArgumentGroup | None = None,
        **about: Any,
    ) -> argparse.Action:
        """An option that names a folder to write files of these names to."""
        action = (group or self).add_argument(*flags, metavar="FOLDER", **about)
        self._outputs.append((action, kind, tuple(names)))
        self._add_force()
        return action

    def only_with(self, flags: str, others: str) -> None:
        """Each of these options has an effect only with one of the others (words of a text)."""
        self._with += [(flag, tuple(others.split())) for flag in flags.split()]

    def not_with(self, flags: str, others: str, why: str = "expected one of the two") -> None:
        """Each of these options has no effect, or no meaning, with any of the others."""
        self._without += [(flag, tuple(others.split()), why) for flag in flags.split()]

    @property
    def file_options(self) -> set[str]:
        """Names of the options that were declared to be files."""
        read = {action.dest for action, _ in self._inputs}
        return read | {action.dest for action, _, _ in self._outputs}

    def options(self, arguments: list[str]) -> argparse.Namespace:
        """The options; what goes together and the outputs are checked, before any work."""
        _asked_for.clear()
        options = self._parse(arguments, argparse.Namespace())
        self._check_together(arguments)
        if self._inputs:
            self._check_standard_input(options)
            self._check_standard_output(options)
        if self._outputs:
            self._check_files(options)
        return options

    def _parse(self, arguments: list[str], empty: argparse.Namespace) -> argparse.Namespace:
        options, unknown = self.parse_known_args(arguments, empty)
        vars(options).pop(_GIVEN, None)
        if unknown:
            from difflib import get_close_matches

            name = unknown[0].partition("=")[0]
            near = get_close_matches(name, self._option_string_actions, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near and name.startswith("-") else ""
            self.error(f"no argument {' '.join(unknown)!r} is known{hint}")
        return options

    def _check_together(self, arguments: list[str]) -> None:
        if not self._with and not self._without:
            return
        # Defaults are only put where nothing stands yet: what is left None was not given.
        empty = argparse.Namespace(**{action.dest: None for action in self._actions})
        found = vars(self._parse(arguments, empty))
        given = {
            flag: found[action.dest] is not None
            for flag, action in self._option_string_actions.items()
        }
        for flag, others in self._with:
            if given[flag] and not any(given[other] for other in others):
                self.error(f"{flag} has no effect without {' or '.join(others)}; expected both")
        for flag, others, why in self._without:
            for other in others:
                if given[flag] and given[other]:
                    self.error(f"{flag} has no effect with {other}; {why}")

    def _add_force(self) -> None:
        if "--force" not in self._option_string_actions:
            self.add_argument("--force", action="store_true", help=FORCE_HELP)

    def _check_standard_input(self, options: argparse.Namespace) -> None:
        """What was read from it is gone for whoever reads it next."""
        read = [f"{name} {path}" for name, path in self._paths_read(options) if _is_stdin(path)]
        if len(read) > 1:
            self.error(f"{read[0]} and {read[1]} are both standard input; expected it once")

    def _check_standard_output(self, options: argparse.Namespace) -> None:
        """``dpamt trace FILE >> FILE``: the report is not added to what was read."""
        try:
            ours = os.fstat(1)
        except OSError:
            return
        if not stat.S_ISREG(ours.st_mode):
            return
        for name, path in self._paths_read(options):
            with suppress(OSError, ValueError):
                if os.path.samestat(os.stat(path), ours):
                    self.error(f"{name} {path} is standard output too; expected another file there")

    def _check_files(self, options: argparse.Namespace) -> None:
        for output, source in self._go_on.items():
            if _same(getattr(options, output), getattr(options, source)):
                setattr(options, output, None)
        given = [one for one in self._outputs if getattr(options, one[0].dest) is not None]
        if not given:
            if options.force:
                known = ", ".join(_name(action) for action, _, _ in self._outputs)
                self.error(f"--force without a file to write; expected one of {known}")
            return
        from dpamt.files import Output, OutputFolder, check_outputs

        outputs: list[tuple[str, Output | OutputFolder]] = []
        for action, kind, names in given:
            path = getattr(options, action.dest)
            one = (
                Output(path, kind, options.force)
                if names is None
                else OutputFolder(path, names, kind, options.force)
            )
            setattr(options, action.dest, one)
            outputs.append((_name(action), one))
            if kind != _SAYS_SO_ITSELF:
                _asked_for.append(one)
        check_outputs(outputs, list(self._paths_read(options)))
        if any(isinstance(one, Output) and one.is_stdout for _, one in outputs):
            if getattr(options, "json", False):
                self.error("--json and a file on standard output; expected one of them there")
            sys.stdout = sys.stderr  # the report is for eyes; ``main`` puts it back

    def _paths_read(self, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
        for action, as_path in self._inputs:
            value = getattr(options, action.dest)
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, str):
                    yield _name(action), as_path(one)


def _is_stdin(path: str) -> bool:
    """``-``, and another name of the pipe there; a file is opened once more by its name."""
    if path == "-":
        return True
    try:
        ours, seen = os.fstat(0), os.stat(path)
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(ours.st_mode) and os.path.samestat(ours, seen)


def _same(output: str | None, source: str | None) -> bool:
    if output is None or source is None:
        return False
    try:
        return os.path.samefile(output, source)
    except OSError:
        return False


def _name(action: argparse.Action) -> str:
    return max(action.option_strings, key=len) if action.option_strings else str(action.metavar)
