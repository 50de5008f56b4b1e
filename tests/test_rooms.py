"""The rooms of docs/architecture.md: imports point downwards, and never through the wall."""

import ast
from pathlib import Path

import pytest

import dpamt

PACKAGE = Path(dpamt.__file__).parent
FLOORS = (
    {"cli"},
    {"report"},
    {"verify", "plan"},
    {"boot"},
    {"run", "trace"},
    {"host"},
    {"module"},
    {"platform", "kernel_image"},
    {"sync"},
    {"abi"},
    {
        "cache_folder",
        "errors",
        "files",
        "inputs",
        "own_files",
        "ray_cluster",
        "visible",
        "worker_pool",
    },
)
"""From the top; rooms of one floor do not import each other."""
ROOMS = sorted(room for floor in FLOORS[:-1] for room in floor)


def imports_of(room: str) -> dict[str, set[str]]:
    """Rooms that a room's files import, each with the files that do."""
    found: dict[str, set[str]] = {}
    for file in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.startswith("dpamt."):
                    found.setdefault(name.split(".")[1], set()).add(str(file))
    found.pop(room, None)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below(room: str) -> None:
    level = next(number for number, floor in enumerate(FLOORS) if room in floor)
    below = set().union(*FLOORS[level + 1 :])
    above = {name: files for name, files in imports_of(room).items() if name not in below}
    assert above == {}


VERIFY = (
    {"learn"},
    {"machine_code", "programs", "properties"},
    {"explore"},
    {"evidence", "asked"},
    {"cluster"},
    {"verdict"},
    {"races", "costs"},
)
"""The rooms and files of verify/, from below; rooms of one floor may import each other."""


def needed_by(file: Path) -> set[str]:
    """The modules that a file imports to run; those that only types need are left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }


def test_rooms_of_verify_import_only_those_below() -> None:
    for level, floor in enumerate(VERIFY):
        known = set().union(*VERIFY[: level + 1])
        for room in floor:
            path = PACKAGE / "verify" / room
            for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
                needed = {n.split(".")[2] for n in needed_by(file) if n.startswith("dpamt.verify.")}
                assert needed <= known, (file, needed - known)


def test_no_two_files_import_each_other() -> None:
    imports = {
        ".".join(("dpamt", *file.relative_to(PACKAGE).with_suffix("").parts)): needed_by(file)
        for file in PACKAGE.rglob("*.py")
    }
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in sorted(imports.get(name, set())):
                walk(other, (*way, name))
            done.add(name)

    for name in sorted(imports):
        walk(name, ())


def test_the_host_does_not_know_the_module() -> None:
    """The wall is the SEAMCALL: neither side imports the other."""
    assert "module" not in imports_of("host")
    assert "host" not in imports_of("module")


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ROOMS)
