"""What a log says of TDX itself: version, mode, KB, KeyIDs, whether it came up, and why not.

The same facts have been worded in many ways.  Read here are those of mainline, of the series that
led to it and of downstream kernels::

    virt/tdx: Module version: 2.0.18                                   7.x
    virt/tdx: TDX module version: 1.5.24                               January 2026
    virt/tdx: TDX module 1.5.06.00, build number 744, ...              6.14 to 6.19
    virt/tdx: TDX module: attributes 0x0, ..., minor_version 5, ...    6.7 and downstream
    tdx: 4202516 KBs allocated for PAMT.                               downstream 6.5
    tdx: 65667 pages allocated for PAMT.                               series of 2022

Sources: Linux arch/x86/virt/vmx/tdx/tdx.c; the wordings of the series are in its documentation
patches ("Documentation/x86: Add documentation for TDX host support").
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK
from dpamt.abi.pages import PAGE_SIZE
from dpamt.errors import InputError
from dpamt.platform.lines import Line, refuse
from dpamt.platform.log_lines import is_new_boot
from dpamt.platform.tdx_causes import (
    CAUSES,
    ERRNO_WHY,
    GUEST,
    TOO_OLD,
    UNTRIED,
    Cause,
    cause_of,
    errno_of,
)

TDX: Final = r"(?:virt/)?tdx: "
_OLD_VERSION_MARK: Final = re.compile(TDX + r"TDX module: (?:attributes|vendor_id) ")
_OLD_VERSION: Final = re.compile(r"major_version (\d{1,5}), minor_version (\d{1,5})\b")
_VERSION_MARK: Final = re.compile(
    TDX + r"(?:Module version: |(?i:TDX[- ]module)(?: version)?:? (?=\d))"
)
_VERSION: Final = re.compile(r"(\d{1,5}\.\d{1,5})((?:\.\d{1,5}){0,2})(?=$|[\s,.;])")
_PAMT_MARK: Final = re.compile(r"\b(KBs?|kB|pages) allocated for PAMT")
_PAMT: Final = re.compile(r"(?:.*[\s:])?(\d{1,12})\s*")
_KEYIDS_MARK: Final = "private KeyID range "
_KEYIDS: Final = re.compile(r"\[(\d{1,6}), ?(\d{1,6})\)")
_UP: Final = re.compile(TDX + r"(?:(?i:TDX[- ]module|module) )?initialized\b")
_DOWN: Final = re.compile(
    TDX + r".*initialization failed|[Ff]ailed to initialize (?:the )?TDX module"
)
_WHOLE: Final = re.compile(r"(?:initialized|\(-\d{1,4}\)|\.)\s*$")
"""How an outcome ends that was not cut."""
_DYNAMIC: Final = re.compile(TDX + r"Enabled? Dynamic PAMT")
_FROM: Final = re.compile(r"(?:virt/tdx|\btdx|kvm_intel|x86/m?k?tme|kvm|smpboot)\b: ")


@dataclass(frozen=True, slots=True)
class Failure:
    """A line that shows why TDX did not come up: its number and text, and the row of the table."""

    cause: Cause
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class HostLog:
    """What the host's own log says of TDX; ``None`` is for what it does not say."""

    module_version: str | None = None
    pamt_kib: int | None = None
    dynamic_pamt: bool = False
    """Whether it has the line "Enable Dynamic PAMT"."""
    private_keyids: tuple[int, int] | None = None
    came_up: bool | None = None
    failures: tuple[Failure, ...] = ()
    """The one that names the reason first."""
    guest: Failure | None = None
    """The line that shows that this is the log of a TD, not of a host."""
    boots: int = 1
    """How many the file holds; the last one that tells of TDX was read."""

    @property
    def why(self) -> Failure | None:
        """The failure that kept TDX from coming up; None where it came up, or nothing failed."""
        if self.came_up:
            return None
        return next(
            (one for one in self.failures if one.cause.fatal or self.came_up is False), None
        )

    @property
    def doubt(self) -> Failure | None:
        """Where nothing failed: that the log shows KeyIDs, and nothing that came of them."""
        if self.came_up is not None or self.why is not None:
            return None
        return next((one for one in self.failures if one.cause is UNTRIED), None)

    @property
    def against(self) -> str:
        """Why TDX did not come up, for a reader of something else, with its line; else empty."""
        if self.why is None:
            return ""
        why = f"{self.why.cause.why} (line {self.why.line})"
        return f"TDX did not come up there, by its own log: {why}"

    @property
    def says_nothing(self) -> bool:
        """Whether there is nothing of TDX in the log."""
        return self == HostLog(boots=self.boots)


@dataclass
class TdxLines:
    """Collects the facts, line by line."""

    source: str
    version: str | None = None
    pamt_kib: int | None = None
    dynamic: bool = False
    keyids: tuple[int, int] | None = None
    came_up: bool | None = None
    outcome_line: int = 0
    failures: list[Failure] = field(default_factory=list)
    guest: Failure | None = None

    def take(self, line: Line) -> bool:
        """Take in one line; whether its form shows that it is complete.

        Raises InputError for a line of a known kind whose numbers cannot be read.
        """
        text = line.text
        if self.guest is None and GUEST.search(text):
            self.guest = Failure(UNTRIED, line.number, _from_mark(text))
        cause = cause_of(text)
        if cause is not None:
            self.failures.append(_failure(cause, line))
        if _UP.search(text):
            self.came_up, self.outcome_line = True, line.number
            return _WHOLE.search(text) is not None
        if _DOWN.search(text):
            self.came_up, self.outcome_line = False, line.number
            return _WHOLE.search(text) is not None
        if _DYNAMIC.search(text):
            self.dynamic = True
            return True
        return self._numbers(line)

    def _numbers(self, line: Line) -> bool:
        text = line.text
        if _KEYIDS_MARK in text:
            match = _KEYIDS.match(text.partition(_KEYIDS_MARK)[2].strip())
            if match is None or not 1 <= int(match[1]) < int(match[2]) <= 1 << 15:
                raise self._refuse(
                    line, "private KeyID range [<first>, <end>), 1 <= first < end <= 32768"
                )
            self.keyids = int(match[1]), int(match[2])
            return True
        mark = _PAMT_MARK.search(text)
        if mark:
            size = _PAMT.fullmatch(text[: mark.start()])
            if size is None:
                raise self._refuse(line, "<n> KB allocated for PAMT")
            each = PAGE_SIZE >> 10 if mark[1] == "pages" else 1
            self.pamt_kib = int(size[1]) * each
            return True
        mark = _OLD_VERSION_MARK.search(text)
        if mark:
            match = _OLD_VERSION.search(text)
            if match is None:
                raise self._refuse(line, "major_version <n>, minor_version <m>")
            self.version = f"{match[1]}.{match[2]}"
            return False
        mark = _VERSION_MARK.search(text)
        if mark:
            match = _VERSION.match(text[mark.end() :].strip())
            if match is None:
                raise self._refuse(line, "Module version: <major>.<minor>.<update>")
            parts = (match[1] + match[2]).split(".")
            self.version = ".".join(parts[:3])
        return False

    def _refuse(self, line: Line, expected: str) -> InputError:
        return refuse(self.source, line.number, line.text.strip(), expected)

    def log(self, boots: int) -> HostLog:
        """All of it."""
        failures = list(self.failures)
        fatal = [one for one in failures if one.cause.fatal]
        if self.version == "1.0" and self.came_up is False:
            shown = [one for one in failures if one.cause.key.startswith("seamcall")] or failures
            if shown and not any(one.cause.rank == 0 for one in failures):
                failures.append(Failure(TOO_OLD, shown[0].line, shown[0].text))
        elif self.came_up is None and not fatal and self.keyids and self.version is None:
            failures.append(Failure(UNTRIED, 0, ""))
        failures.sort(key=lambda one: one.cause.rank)
        return HostLog(
            self.version,
            self.pamt_kib,
            self.dynamic,
            self.keyids,
            self.came_up,
            tuple(failures),
            self.guest,
            boots,
        )


def _failure(cause: Cause, line: Line) -> Failure:
    text = _from_mark(line.text)
    if cause.key == "seamcall" and _of_init(text):
        cause = _SEAMCALL_INIT
    number = errno_of(line.text) if cause.key == "failed" else None
    if number in ERRNO_WHY:
        why, step = ERRNO_WHY[number]
        cause = Cause(f"errno{number}", cause.pattern, why, step, cause.source, 2)
    return Failure(cause, line.number, text)


_SEAMCALL_INIT: Final = next(cause for cause in CAUSES if cause.key == "seamcall-init")
_LEAF: Final = re.compile(
    r"SEAMCALL (?:failed: (?:CPU \d+: )?leaf )?\(?(0x[0-9a-fA-F]+|\d+|TDH[._]\w+)"
)


def _of_init(text: str) -> bool:
    """Whether a failed SEAMCALL is one of the module's initialisation (TDH.SYS.*)."""
    match = _LEAF.search(text)
    if match is None:
        return False
    if match[1][0] == "T":
        return match[1].replace("_", ".").startswith("TDH.SYS.")
    leaf = int(match[1], 0) & RAX_LEAF_MASK
    return LEAF_NAMES.get(leaf, "").startswith("TDH.SYS.")


def _from_mark(text: str) -> str:
    """A line without what a terminal, syslog or the kernel put before it."""
    match = _FROM.search(text)
    return text[match.start() if match else 0 :].strip()


class LogFacts:
    """What the lines of a log say, for those who read it line by line for something else; of
    several boots the last one counts.
    """

    def __init__(self) -> None:
        self._lines = TdxLines("log")
        self._boots = 1

    def watched(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The same lines.  Numbers that cannot be read are passed over."""
        for line in lines:
            if is_new_boot(line, self._lines.keyids is not None):
                self._lines = TdxLines("log")
                self._boots += 1
            with suppress(InputError):
                self._lines.take(line)
            yield line

    def log(self) -> HostLog:
        """All of it."""
        return self._lines.log(self._boots)


def distinct(failures: Iterable[Failure]) -> Iterator[Failure]:
    """The failures, each cause once."""
    seen: set[str] = set()
    for one in failures:
        if one.cause.key not in seen:
            seen.add(one.cause.key)
            yield one
