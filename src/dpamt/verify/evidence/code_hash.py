"""A hash of the code that a search ran: whether a later one runs the same."""

import hashlib
from types import CodeType

from dpamt.verify.learn.automaton import Automaton


def code_hash(automata: tuple[Automaton, ...]) -> str:
    """SHA-256 over the names and bytecode of every function that stood on a thread's stack."""
    codes = {}
    for automaton in automata:
        for code in automaton.codes():
            codes[code.co_qualname, code.co_filename, code.co_firstlineno] = code
    digest = hashlib.sha256()
    for name in sorted(codes):
        code = codes[name]
        digest.update(repr((code.co_qualname, code.co_names, code.co_varnames)).encode())
        digest.update(code.co_code)
        digest.update(repr([_constant(value) for value in code.co_consts]).encode())
    return digest.hexdigest()


def _constant(value: object) -> str:
    """A constant of a function so that it is the same in every process."""
    if isinstance(value, CodeType):
        return value.co_qualname
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
