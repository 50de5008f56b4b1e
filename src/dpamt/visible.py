"""Names and texts of others as a terminal may show them.

A file's name may hold any bytes: control characters, which a terminal obeys, and bytes that are not
UTF-8, which Python keeps as lone surrogates (PEP 383) and which no output can take.
"""

from dpamt.errors import InputError

_SPACES = str.maketrans("\n\t", "  ")


def visible(text: str) -> str:
    """The text with what cannot be printed as escapes, such as ``\\\\x1b``; line breaks and tabs
    stay."""
    if text.translate(_SPACES).isprintable():
        return text
    return "".join(one if one in "\n\t" or one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def check_name(path: str) -> None:
    """Raise InputError for the name of a file that cannot stand in a report or in JSON."""
    if not path.isprintable():
        raise InputError(
            f"{visible(path)}: a name with bytes that are no text; expected a file with another "
            "name"
        )
