"""Modules of the user's own in the folder of a design: which it imports, and that Python does too.

Python finds a module by its name alone.  The folder of a design comes last, so that no file there
hides a module of Python's or of a library; and a name that leads elsewhere (to such a module, or to
a file of the same name beside another design) is refused, for what is checked is the file beside.
"""

import ast
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from dpamt.errors import InputError


def find_beside(design: Path) -> None:
    """Let Python find the modules beside a design, which it and they import.

    Raises InputError for a name that leads to another file.
    """
    folder = design.resolve().parent
    files = _files(design)
    if files and str(folder) not in sys.path:
        sys.path.append(str(folder))
    for name, file in files.items():
        loaded = sys.modules.get(name)
        if loaded is not None:
            found = getattr(loaded, "__file__", None)
        else:
            spec = None if name in sys.builtin_module_names else PathFinder.find_spec(name)
            found = None if spec is None else spec.origin
        if found is None or Path(found).resolve() != file.resolve():
            raise InputError(
                f"{design}: {name} is imported, which is {found or 'a module of Python'} and not "
                f"{file}; expected another name for the file"
            )


def _files(design: Path) -> dict[str, Path]:
    """The modules and packages beside the design that it and they import, by name."""
    found: dict[str, Path] = {}
    pending = [design]
    while pending:
        try:
            tree = ast.parse(pending.pop().read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # reported with its line where it is imported
        for name in _imported(tree):
            if name in found:
                continue
            own = design.parent / name
            beside = [one for one in (own / "__init__.py", own.with_suffix(".py")) if one.exists()]
            if beside:
                found[name] = beside[0]
                pending.append(beside[0])
    return found


def _imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - {"dpamt"}
