"""The text of a file that code came from, as it is now.

:mod:`linecache` keeps what it read under the name that was given; a relative one may name another
file by now.
"""

import linecache


def source_lines(file: str) -> list[str]:
    """Its lines, with their line breaks; none where it cannot be read."""
    linecache.checkcache(file)
    return linecache.getlines(file)
