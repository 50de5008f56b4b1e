"""Lines of a stream of any size in bounded memory: a line that is too long is left out."""

from collections.abc import Iterator
from typing import Final, Protocol

CHUNK: Final = 1 << 20
LONGEST: Final = 1 << 16
"""Bytes of a line; a trace line has a few hundred."""


class Readable(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


class TooLong:
    """In the place of a line that is longer than :data:`LONGEST`."""


TOO_LONG: Final = TooLong()


def chunks_of_lines(stream: Readable, longest: int = LONGEST) -> Iterator[list[bytes | TooLong]]:
    """Lists of lines without their line ends, as many as a chunk has."""
    rest = b""
    skipping = False
    while chunk := stream.read(CHUNK):
        lines: list[bytes | TooLong] = []
        parts = chunk.split(b"\n")
        if skipping:
            if len(parts) == 1:
                continue
            parts.pop(0)
            skipping = False
        elif rest:
            parts[0] = rest + parts[0]
        rest = parts.pop()
        if len(rest) > longest:
            lines_at_end = [TOO_LONG]
            rest, skipping = b"", True
        else:
            lines_at_end = []
        if len(chunk) > longest and parts and max(map(len, parts)) > longest:
            lines += [TOO_LONG if len(part) > longest else part for part in parts]
        elif parts and len(parts[0]) > longest:
            lines += [TOO_LONG, *parts[1:]]
        else:
            lines += parts
        lines += lines_at_end
        yield lines
    if rest:
        yield [rest]
