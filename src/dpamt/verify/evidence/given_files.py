"""Which files may be executed for a document: those that the reader gave, no others.

A certificate, a counterexample or a kept search names the design that it is about, and maybe a file
of properties.  Who reads it has it from somebody else; so a file that it names is not executed for
that; nor are a kernel image and its modules.  Designs that come with dpamt are dpamt's own code and
need not be given.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dpamt.errors import InputError
from dpamt.host.designs.load import SHIPPED
from dpamt.verify.asked import Asked

_NOTHING: Final = "Executes no Python file but dpamt's own."


class GivenFiles:
    """The files that were given for the questions of one document."""

    def __init__(
        self, where: str, asked: Iterable[Asked], designs: Sequence[str], property_file: str | None
    ) -> None:
        """Match what was given to what is asked; ``where`` is the document's name.

        Raises InputError, one line, where a file that is named was not given, or one that was given
        is not named.
        """
        every = list(asked)
        self._property_file = property_file or ""
        self._designs: dict[str, str] = {}
        modules = dict.fromkeys(module for one in every for module in one.modules)
        self._modules = frozenset(modules)
        files = dict.fromkeys(one.design for one in every if one.design not in SHIPPED)
        named = list(files | modules)
        for name in named:
            self._designs[name] = _given_for(name, named, designs, where, self._kind_of(name))
        for given in designs:
            if given not in self._designs.values():
                raise InputError(
                    f"{given}: {where} is not about such a design; expected the files of "
                    f"{', '.join(named) or 'no design, for it names none'}"
                )
        asks = [one.property_file for one in every if one.property_file]
        if asks and not property_file:
            raise InputError(
                f"{where}: has properties of {asks[0]}, which is not executed because a document "
                "names it; expected --property FILE"
            )
        if property_file and not asks:
            raise InputError(f"--property: {where} is about no file of properties; expected none")
        if len(set(asks)) > 1:
            raise InputError(f"{where}: has properties of several files; expected one")

    def of(self, asked: Asked) -> Asked:
        """The question, with the files that were given in place of those that it names."""
        return replace(
            asked,
            design=self._designs.get(asked.design, asked.design),
            modules=tuple(self._designs.get(one, one) for one in asked.modules),
            property_file=self._property_file if asked.property_file else "",
        )

    def _kind_of(self, name: str) -> str:
        return "module" if name in self._modules else "design"

    def told(self) -> str:
        """What is executed, for the reader."""
        files = [
            f"{given} as the {self._kind_of(name)} {name}" for name, given in self._designs.items()
        ]
        if self._property_file:
            files.append(f"{self._property_file} as the properties")
        return f"Executes {', '.join(files)}; all else is dpamt's own." if files else _NOTHING


def _given_for(
    name: str, named: Sequence[str], designs: Sequence[str], where: str, kind: str
) -> str:
    """The file that was given for the design, or the module, of this name."""
    if len(named) == len(designs) == 1:
        return designs[0]
    fitting = [given for given in designs if given == name] or [
        given for given in designs if Path(given).name == Path(name).name and given not in named
    ]
    if len(fitting) != 1:
        raise InputError(
            f"{where}: is about the {kind} {name}, which is not executed because a document names "
            f"it; expected it to be given too: {where} {name}"
        )
    return fitting[0]
