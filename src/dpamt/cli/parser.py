"""The argument parser that all verbs use: its refusals are one line."""

import argparse
from typing import NoReturn

from dpamt.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        raise InputError(f"{self.prog.removeprefix('dpamt ')}: {message} (dpamt --help)")
