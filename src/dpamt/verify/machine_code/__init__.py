"""Threads that are machine code: the second way to learn an automaton (docs/machine-code.md)."""
