"""From the text of a log to kernel lines: mail quotes, colours, JSON and boots taken off.

A log passes through many hands before it is read here: a terminal adds colours and prompts, a mail
program quotes, wraps and encodes it, journald and ``dmesg --json`` put each line into an object,
and a log file on disk holds several boots.  What is left of each line keeps its number in the file.

Sources of the forms: dmesg(1) and journalctl(1) for JSON and the lines between boots; rsyslog's
``#033`` for escape characters; RFC 2045 for quoted-printable.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from dpamt.platform.lines import Line, refuse, split_lines

_COLOUR: Final = re.compile(
    r"(?:\x1b|\^\[|#033)\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]"
)
_QUOTE: Final = re.compile(r"(?:[ \t]?[>|] ?)+")
_SPACES: Final = str.maketrans({"\u00a0": " ", "\u2007": " ", "\u202f": " ", "\u200b": ""})
_COMMAND: Final = re.compile(
    r"^\s*(?:[\w.-]+@[\w.-]+[^$#%]{0,80}|\[[^\]]{1,80}\])?\s*[$#%]\s+\S|"
    r"\b(?:e?grep|dmesg|journalctl|cat /proc/iomem)\b"
)
_SOFT_BREAK: Final = re.compile(r"=$")
_ENCODED: Final = re.compile(r"=([0-9A-F]{2})")
_STAMP: Final = re.compile(
    r"^\s*(?:<\d+>)?(?:\[\s*\d{1,10}\.\d{1,9}\]|\[?[A-Z][a-z]{2} [A-Z]?[a-z \d]{2,4}[ \d:]+|"
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d)"
)
"""How a line of a log begins: dmesg's time, in seconds or as a date, syslog's, journalctl's."""
_ANY_STAMP: Final = re.compile(r"\[\s*(\d{1,10}\.\d{6})\]")
_WRAPPED_FROM: Final = 56
"""A mail program wraps no line that is shorter."""
_BOOT: Final = re.compile(r"^-- (?:Boot [0-9a-f]{8,}|Reboot) --|\bLinux version \d+\.")
_ONCE_A_BOOT: Final = "private KeyID range ["
_CMR: Final = re.compile(r"tdx: CMR(?:\[\d+\])?:? *\[0x([0-9a-f]+),")
_SECONDS_BACK: Final = 1.0
"""Time stamps of one boot fall by less, where CPUs print at the same time."""


def is_command(text: str) -> bool:
    """Whether a line is what somebody typed: a prompt, or a command that prints logs."""
    return _COMMAND.search(text) is not None


def plain(text: str) -> str:
    """A line without colours and quotes; its indentation stays."""
    if "[" in text:
        text = _COLOUR.sub("", text)
    match = _QUOTE.match(text)
    if match:
        text = text[match.end() :]
    return text.translate(_SPACES)


def log_lines(text: str, source: str) -> list[Line]:
    """The lines of a log as the kernel printed them, as far as that can be had back.

    Raises InputError for JSON that ends in the middle.
    """
    if _is_json(text):
        return list(_json_lines(text, source))
    lines = split_lines(text)
    if any(len(line.text) >= _WRAPPED_FROM and line.text.endswith("=") for line in lines):
        lines = _quoted_printable(lines)
    quoted = any(_QUOTE.match(line.text) for line in lines)
    lines = [Line(line.number, plain(line.text), line.ended) for line in lines]
    return _unwrapped(lines) if quoted else lines


def _is_json(text: str) -> bool:
    start = text.lstrip("\x1e \t\r\n")[:400]
    if start.startswith("data:"):
        start = start[5:].lstrip()
    return re.match(r'\{\s*"[A-Za-z_]+"\s*:', start) is not None


def _json_lines(text: str, source: str) -> Iterator[Line]:
    """``dmesg --json``, ``journalctl -o json``, ``json-pretty``, ``json-seq``, ``json-sse``."""
    decoder = json.JSONDecoder()
    position, number, boot = 0, 1, None
    skipped = re.compile(r"(?:[\s\x1e]|^data:)*", re.MULTILINE)
    while True:
        match = skipped.match(text, position)
        start = match.end() if match else position
        number += text.count("\n", position, start)
        if start >= len(text):
            return
        try:
            entry, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            raise refuse(
                source,
                number,
                text[start : start + 60].splitlines()[0],
                "a whole JSON object, as of dmesg --json or journalctl -o json (log cut?)",
            ) from None
        if isinstance(entry, dict) and isinstance(entry.get("dmesg"), list):
            for one in entry["dmesg"]:
                if isinstance(one, dict):
                    yield from _messages(number, f"[{_stamp(one)}] ", one.get("msg"))
        elif isinstance(entry, dict):
            if boot is not None and entry.get("_BOOT_ID", boot) != boot:
                yield Line(number, "-- Reboot --", True)
            boot = entry.get("_BOOT_ID", boot)
            yield from _messages(number, "", entry.get("MESSAGE"))
        number += text.count("\n", start, position)


def _stamp(entry: dict[str, Any]) -> str:
    time = entry.get("time")
    return f"{time:12.6f}" if isinstance(time, int | float) else f"{str(time)[:20]:>12}"


def _messages(number: int, before: str, message: object) -> Iterator[Line]:
    """A message is a text, or its bytes as numbers where it is not UTF-8."""
    if isinstance(message, list):
        try:
            message = bytes(message).decode("utf-8", "replace")
        except (TypeError, ValueError):
            return
    if isinstance(message, str):
        for part in message.split("\n"):
            yield Line(number, before + plain(part), True)


def _quoted_printable(lines: list[Line]) -> list[Line]:
    """Soft line breaks joined, ``=3D`` and the like decoded; a line keeps its first number."""
    joined: list[Line] = []
    pending: Line | None = None
    for line in lines:
        text = (pending.text if pending else "") + line.text
        number = pending.number if pending else line.number
        if _SOFT_BREAK.search(text):
            pending = Line(number, text[:-1], line.ended)
            continue
        pending = None
        joined.append(Line(number, _decoded(text), line.ended))
    if pending:
        joined.append(pending)
    return joined


def _decoded(text: str) -> str:
    data = _ENCODED.sub(lambda match: chr(int(match[1], 16)), text)
    try:
        return data.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return data


def _unwrapped(lines: list[Line]) -> list[Line]:
    """Lines that a mail program cut in two, joined: where the others have time stamps, one without
    that follows a long one is its rest.
    """
    stamped = sum(_STAMP.match(line.text) is not None for line in lines)
    if stamped < max(3, len(lines) // 3):
        return lines
    joined: list[Line] = []
    for line in lines:
        rest = line.text.strip()
        if (
            joined
            and rest
            and not _STAMP.match(rest)
            and not is_command(rest)
            and _STAMP.match(joined[-1].text)
            and len(joined[-1].text) >= _WRAPPED_FROM
        ):
            last = joined.pop()
            line = Line(last.number, f"{last.text.rstrip()} {rest}", line.ended)
        joined.append(line)
    return joined


def boots_of(lines: list[Line]) -> list[list[Line]]:
    """The lines of each boot, one after another; at least one.

    A boot begins where the log says so, and where what is printed once a boot comes again.
    """
    boots: list[list[Line]] = [[]]
    once = False
    first_cmr: int | None = None
    latest = 0.0
    for line in lines:
        new = _BOOT.search(line.text) is not None and any(_says(one) for one in boots[-1])
        if _ONCE_A_BOOT in line.text:
            new = new or once
        stamp = _ANY_STAMP.search(line.text)
        seconds = float(stamp[1]) if stamp else latest
        cmr = _CMR.search(line.text)
        if cmr and first_cmr is not None and int(cmr[1], 16) <= first_cmr:
            new = new or seconds < latest - _SECONDS_BACK
        if new:
            boots.append([])
            once, first_cmr, latest = False, None, 0.0
        once = once or _ONCE_A_BOOT in line.text
        if cmr and first_cmr is None:
            first_cmr = int(cmr[1], 16)
        latest = max(latest, seconds)
        boots[-1].append(line)
    return boots


def is_new_boot(line: Line, keyids_seen: bool) -> bool:
    """Whether a boot begins with this line, for those who see one line at a time."""
    return _BOOT.search(line.text) is not None or (keyids_seen and _ONCE_A_BOOT in line.text)


def _says(line: Line) -> bool:
    """Whether a line is more than the head of a boot."""
    return bool(line.text.strip()) and _BOOT.search(line.text) is None
