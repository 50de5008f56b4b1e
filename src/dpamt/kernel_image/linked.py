"""A linked kernel with modules in it, as one image.

Each module is laid out behind the one before it in Linux's module area and relocated there.  What
it does not define is the kernel's where the kernel has a global symbol of that name, else that of
the first module before it that has one (Linux 7.3.4 kernel/module/main.c: the kernel's own exports
are looked at first).  What none defines gets an address of its own, as in an object alone.  Whether
the kernel would load the module (version, signature, exports, licence) is not asked.

A name that stands for two things belongs to the file that came first; the other is ``MODULE:NAME``,
as the kernel's probes write it (Linux Documentation/trace/kprobetrace.rst).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.kernel_image.elf import EXTERN_BASE, OBJECT_BASE, ElfImage
from dpamt.kernel_image.lines import Lines, SourceLine

_PAGE: Final = 4096
_SLOT_BYTES: Final = 1 << 20
"""Room for the global offset table of each module."""


class Module(ElfImage):
    """One module, laid out at ``base`` and relocated against what came before it."""

    expected = "expected a relocatable module (.ko) for x86-64"
    kinds = ("ET_REL",)

    def __init__(self, path: Path, linked: "LinkedImage", base: int, slot_base: int) -> None:
        self._linked = linked
        self._base, self._slot_base = base, slot_base
        super().__init__(path)

    @property
    def name(self) -> str:
        """As the kernel calls it."""
        return self.path.stem.replace("-", "_")

    @property
    def end(self) -> int:
        """The address behind its last section, the global offset table aside."""
        ends = [section.end for section in self.sections if section.address < self._slot_base]
        return max(ends, default=self._base)

    def has(self, address: int) -> bool:
        """Whether an address is one of the module's."""
        return self.section_at(address) is not None

    def _extern(self, name: str) -> int:
        return self._linked.resolve(name)


class LinkedImage(ElfImage):
    """A kernel with modules.

    Raises InputError for a kernel that is not linked, for a module that is no relocatable file for
    x86-64, is cut off, stripped or damaged, and for two modules of one name.
    """

    def __init__(self, path: Path, modules: Sequence[Path]) -> None:
        super().__init__(path)
        if self.elf["e_type"] == "ET_REL":
            raise InputError(
                f"{path}: not linked; expected a vmlinux with --module (ld -r makes one object of "
                "several)"
            )
        self.modules: list[Module] = []
        self.used: set[str] = set()
        """Names of modules that a later one uses."""
        self.twice: dict[str, list[Path]] = {}
        """Names that several files define, the one that is meant first."""
        self._exports: dict[str, tuple[int, str]] = {
            name: (self.symbols[name].address, "") for name in self.global_names
        }
        for one in modules:
            self._add(one)
        self._sort()

    def resolve(self, name: str) -> int:
        """The address that an undefined symbol of a module stands for."""
        known = self._exports.get(name)
        if known is None:
            return self._extern(name)
        address, module = known
        self.used.add(module)
        return address

    def _add(self, path: Path) -> None:
        slots = EXTERN_BASE - _SLOT_BYTES * (2 + len(self.modules))
        area = [s.end for s in self.sections if OBJECT_BASE <= s.address < slots]
        base = max([OBJECT_BASE, *area])
        module = Module(path, self, base + -base % _PAGE, slots)
        if module.end > slots:
            raise InputError(f"{path}: does not fit into the module area; expected fewer modules")
        if any(other.name == module.name for other in self.modules):
            raise InputError(
                f"{path}: a second module with the name {module.name}; expected each once"
            )
        self.modules.append(module)
        for section in module.sections:
            self.sections.append(section)
            if section.offset >= 0 or section.address >= slots:
                self._relocated[section.address] = bytearray(
                    module.read(section.address, section.size)
                )
        for name, symbol in module.symbols.items():
            if name in module.global_names:
                self._exports.setdefault(name, (symbol.address, module.name))
            if name in self.symbols:
                self.twice.setdefault(name, [self._owner(name)]).append(path)
                name = f"{module.name}:{name}"
                symbol = replace(symbol, name=name)
            self.symbols[name] = symbol

    def _owner(self, name: str) -> Path:
        return self.path_at(self.symbols[name].address)

    def module_at(self, address: int) -> Module | None:
        """The module that an address lies in; None: it is not in one."""
        return next((module for module in self.modules if module.has(address)), None)

    def path_at(self, address: int) -> Path:
        """The file that an address comes from."""
        module = self.module_at(address)
        return self.path if module is None else module.path

    def files(self) -> tuple[ElfImage, ...]:
        """The kernel, then the modules in their order."""
        return self, *self.modules

    def beside(self, symbol: str, names: Iterable[str], later: bool = False) -> str:
        """The first of these names that the file of ``symbol`` defines, as it is to be asked for.

        With ``later`` a module after it will do: it can call what lies in the file.  Empty: none.
        """
        paths = [file.path for file in self.files()]
        first = paths.index(self._owner(symbol))
        for path in paths[first:] if later else paths[first : first + 1]:
            for name in names:
                for full in (name, *(f"{module.name}:{name}" for module in self.modules)):
                    if full in self.symbols and self._owner(full) == path:
                        return full
        return ""

    def check_used(self, names: Iterable[str]) -> None:
        """Refuse modules without effect.

        ``names`` are those that are asked for.  Raises InputError for a module that defines none of
        them, and nothing that a later module uses.
        """
        asked = sorted(set(names))
        owners = {
            self.path_at(self.symbols[name].address) for name in asked if name in self.symbols
        }
        for module in self.modules:
            if module.path in owners or module.name in self.used:
                continue
            other = next((name for name in asked if module.path in self.twice.get(name, ())), "")
            if other:
                raise InputError(
                    f"{module.path}: {other} is that of {self.twice[other][0]}; expected "
                    f"{module.name}:{other} to name the module's"
                )
            raise InputError(
                f"{module.path}: defines nothing that is asked for or that a later module uses; "
                f"expected one of {', '.join(asked)}"
            )

    def said_of(self, names: Iterable[str]) -> list[str]:
        """Which of these names stand for two things, a sentence each."""
        found = []
        for name in sorted(set(names)):
            first, *others = self.twice.get(name) or [self.path]
            if others:
                more = ", ".join(other.name for other in others)
                found.append(f"{name} is that of {first.name}, and not that of {more}")
        return found


class LinkedLines(Lines):
    """The lines of a kernel and of its modules, each from its own file."""

    def __init__(self, image: LinkedImage) -> None:
        super().__init__(image)
        self._linked = image
        self._of_modules = {module.path: Lines(module) for module in image.modules}

    @property
    def there_are(self) -> bool:
        """Whether one of the files has any."""
        return super().there_are or any(lines.there_are for lines in self._of_modules.values())

    def unit_of(self, address: int) -> Any:
        """The compilation unit that an instruction is part of; None: DWARF has none."""
        module = self._linked.module_at(address)
        if module is None:
            return super().unit_of(address)
        return self._of_modules[module.path].unit_of(address)

    def at(self, address: int) -> tuple[SourceLine, ...]:
        """The functions that an instruction is part of, innermost (inlined) last."""
        module = self._linked.module_at(address)
        return super().at(address) if module is None else self._of_modules[module.path].at(address)


def lines_of(image: ElfImage) -> Lines:
    """The lines of an image of whatever kind."""
    return LinkedLines(image) if isinstance(image, LinkedImage) else Lines(image)
