"""The module's locks in words: which lock a step of ``sync`` takes, and how."""

import ast
from typing import Final

from dpamt.report.leaf_source.scope import Scope

_FAST: Final = ("path", "tree_walk")
"""Fast ways to take locks that the steps after them take one by one; those are shown."""
_TAKES: Final = {
    "shared": "shared",
    "exclusive": "exclusive",
    "shared_entry": "shared",
    "exclusive_entry": "exclusive",
    "promote": "exclusive, should the walk end there",
    "try_shared": "shared, dropped again before the guest runs",
}
_LOCKS: Final = {
    "top": "PAMT 1G entry",
    "op_state": "OP_STATE",
    "tree": "S-EPT tree",
    "kot_lock": "KOT",
    "global_lock": "the module's global lock",
    "epoch_lock": "TD_EPOCH",
    "lock": "TDMR",
    "key_engines": "KET of this package",
    "write_back_lock": "WBCACHE of this package",
    "entries": "PAMT 4K entry",
}
"""By the attribute that holds the lock, or whose ``at()`` gives it."""
_SEPT_PAGES: Final = ("page", "sept", "child")
"""Names of S-EPT pages, whose entries have locks."""


def is_lock_step(call: ast.Call) -> bool:
    """Whether a call takes a lock."""
    target = call.func
    if not isinstance(target, ast.Attribute):
        return False
    if target.attr == "try_shared":
        return True
    owner = ast.unparse(target.value)
    return owner.rpartition(".")[2] == "locks" and (target.attr in _TAKES or target.attr in _FAST)


def lock_words(call: ast.Call, scope: Scope) -> list[str]:
    """``OP_STATE shared``; nothing for a fast way.

    Raises LookupError for a lock without a name.
    """
    target = call.func
    if not isinstance(target, ast.Attribute) or target.attr in _FAST:
        return []
    lock = target.value if target.attr == "try_shared" else call.args[0]
    names = list(dict.fromkeys(_name(source) for source in scope.sources(lock)))
    return [f"{' or '.join(names)} {_TAKES[target.attr]}"]


def _name(node: ast.expr) -> str:
    source = ast.unparse(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value  # at(...)
    if isinstance(node, ast.Attribute):
        if node.attr == "first":
            return "PAMT 1G entry" if "block" in source else "PAMT 2M entry"
        if node.attr in _LOCKS:
            return _LOCKS[node.attr]
    if isinstance(node, ast.Name) and node.id in _SEPT_PAGES:
        return "S-EPT entry"
    raise LookupError(f"no word for the lock {source}")
