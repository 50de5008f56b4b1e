"""Mutants that no test can tell from the code as it is, each with the reason.

The key is what ``mutants.py`` prints of a survivor.
"""

EQUIVALENT: dict[str, str] = {}
