"""Files that dpamt writes: whole or not at all, and never over what is not its own.

What may be lost when a program writes a file, and what is done about it:

- *The program stops half-way* (full disk, Ctrl-C, an error).  A file is written beside its place,
  brought to the disk, and takes its place by one rename; until then the old file stands.
- *The name leads elsewhere.*  A symbolic link is followed and kept.  A terminal, ``/dev/null`` or a
  pipe is written to, never replaced; a disk and any other device is refused.  ``-``,
  ``/dev/stdout`` and ``/dev/fd/N`` are streams of this process and are written to as such, for a
  rename would cut the caller off from its file.
- *Two names are one file.*  :func:`check_outputs` compares files, not names: an output that is an
  input, another output or a stream of the same command is refused before any work.
- *The file is the user's.*  A file that exists is only replaced by one of its own kind: every kind
  that dpamt writes says so inside (:mod:`dpamt.own_files`).  ``--force`` replaces any other file,
  but never a Python source, a file without permission to write, or a file of dpamt itself.
"""

import io
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from dpamt.errors import InputError

STDOUT: Final = "-"

_MOST_LINKS: Final = 40
"""As in Linux, ``MAXSYMLINKS`` (include/linux/namei.h)."""

_MEMORY_MAJOR: Final = 1
_HARMLESS_MINORS: Final = {3, 5, 7}
"""``/dev/null``, ``/dev/zero`` and ``/dev/full``; beside them ``/dev/mem`` and ``/dev/port``."""

_TERMINAL_MAJORS: Final = {4, 5, *range(136, 144), 188, 204, 229}
"""Consoles, serial lines and pseudo-terminals.  These and the numbers above: Linux,
Documentation/admin-guide/devices.txt."""


class Output:
    """A file, a device or a stream that a command was asked to write to.

    ``kind`` is one of :data:`dpamt.own_files.KINDS`; ``""`` replaces whatever file is there.
    """

    def __init__(self, path: str, kind: str = "", force: bool = False) -> None:
        self.path = path
        self._kind = "" if force else kind
        self._force = force
        self._descriptor = _descriptor(path)
        self._stream = sys.stdout  # a command whose output is a stream prints elsewhere
        self._target = os.path.realpath(path)
        self._seen = None if self.is_stream else self._stat()
        self.written = False
        """Whether a file has taken its place; a stream or a device never is."""

    def __str__(self) -> str:
        return self.path

    def __fspath__(self) -> str:
        return self.path

    @property
    def is_stdout(self) -> bool:
        """Whether it is the standard output of this process."""
        return self._descriptor == 1

    @property
    def is_stream(self) -> bool:
        """Whether it is an open file of this process."""
        return self._descriptor is not None

    def identity(self) -> tuple[Any, ...] | None:
        """What is the same for two names of one file; None where sharing does no harm."""
        if self._descriptor is not None:
            return _identity_of_stream(self._descriptor)
        if self._seen is not None:
            return None if stat.S_ISCHR(self._seen.st_mode) else _identity(self._seen)
        folder, name = os.path.split(self._target)
        with suppress(OSError):
            return (*_identity(os.stat(folder)), name)
        return (self._target,)

    def check(self) -> None:
        """Raise InputError, before any work, for what could not or must not be written."""
        if self._descriptor is not None:
            self._check_stream(self._descriptor)
            return
        if not self.path or self.path.endswith("/") or _is(self._seen, stat.S_ISDIR):
            raise InputError(f"{self.path or '(empty)'}: is a folder; expected a file to write to")
        if _is(self._seen, stat.S_ISBLK):
            raise InputError(f"{self.path}: is a disk; expected a file to write to")
        if _is(self._seen, stat.S_ISSOCK):
            raise InputError(f"{self.path}: is a socket; expected a file to write to")
        if self._seen is not None and stat.S_ISCHR(self._seen.st_mode):
            self._check_device(self._seen.st_rdev)
        if self._seen is None or stat.S_ISREG(self._seen.st_mode):
            self._check_folder()
        if self._seen is not None:
            self._check_existing(self._seen)

    @contextmanager
    def open(self, mode: str = "w") -> Iterator[IO[Any]]:
        """What to write to, ``w`` (UTF-8) or ``wb``.  A file takes its place when the block ends;
        when the block is left by an exception nothing has happened.

        Raises InputError when it cannot be written.
        """
        try:
            if self._descriptor is not None:
                opened: AbstractContextManager[IO[Any]] = self._open_stream(self._descriptor, mode)
            elif self._seen is not None and not stat.S_ISREG(self._seen.st_mode):
                opened = self._open_device(mode)
            else:
                opened = self._open_file(mode)
            with opened as file:
                yield file
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"{self.path}: {_why(error)}; expected a file to write to") from None

    # What it is.

    def _stat(self) -> os.stat_result | None:
        try:
            return os.stat(self._target)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: {_why(error)}; expected a file to write to") from None

    def _check_stream(self, descriptor: int) -> None:
        if descriptor == 1 and _number(self._stream) is None:
            return
        import fcntl

        try:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        except OSError as error:
            raise InputError(f"{self.path}: {_why(error)}; expected an open file") from None
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise InputError(f"{self.path}: is open for reading; expected one open for writing")

    def _check_folder(self) -> None:
        folder = os.path.dirname(self._target)
        try:
            here = os.stat(folder)
        except OSError as error:
            raise InputError(
                f"{self.path}: {folder}: {_why(error)}; expected a file to write to"
            ) from None
        sticky = here.st_mode & stat.S_ISVTX and self._seen is not None
        owners = (0, here.st_uid, self._seen.st_uid if self._seen else 0)
        if not os.access(folder, os.W_OK | os.X_OK) or (sticky and os.geteuid() not in owners):
            raise InputError(
                f"{self.path}: no permission to write in {folder}; expected a file in a folder of "
                "your own"
            )

        try:  # /sys and /proc refuse root too, and only when it is tried
            with self._file_beside() as (handle, beside):
                os.close(handle)
                os.unlink(beside)
        except OSError as error:
            raise InputError(
                f"{self.path}: no file can be made in {folder}: {_why(error)}; expected a file to "
                "write to"
            ) from None

    def _check_device(self, number: int) -> None:
        """To write to another device, or only to open it, can do harm: a watchdog, a flash."""
        major, minor = os.major(number), os.minor(number)
        if major == _MEMORY_MAJOR and minor in _HARMLESS_MINORS:
            return
        if major not in _TERMINAL_MAJORS:
            raise InputError(
                f"{self.path}: is a device ({major}:{minor}); expected a file, a pipe, a terminal "
                "or /dev/null"
            )
        try:
            os.close(os.open(self._target, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK))
        except OSError as error:  # as /dev/tty, where there is no terminal
            raise InputError(f"{self.path}: {_why(error)}; expected a file to write to") from None

    def _check_existing(self, seen: os.stat_result) -> None:
        if not os.access(self._target, os.W_OK) or not (self._force or seen.st_mode & 0o222):
            raise InputError(f"{self.path}: no permission to write; expected another file")
        if not stat.S_ISREG(seen.st_mode):
            return
        package = os.path.dirname(os.path.realpath(__file__))
        if os.path.commonpath((package, self._target)) == package:
            raise InputError(f"{self.path}: is a file of dpamt itself; expected another file")
        if not seen.st_size:
            return
        if self._target.endswith(".py"):
            raise InputError(f"{self.path}: is a Python source; expected another file")
        if self._kind:
            self._check_kind()

    def _check_kind(self) -> None:
        from dpamt.own_files import KINDS, kind_of

        kind = kind_of(self._target)
        if kind == self._kind == "checkpoint":  # it may be hours of work, of another question
            raise InputError(
                f"{self.path}: keeps a search; expected a new file, or --resume {self.path}, or "
                "--force"
            )
        if kind != self._kind:
            what = f"is {KINDS[kind]}" if kind else "exists, and dpamt did not write it"
            raise InputError(
                f"{self.path}: {what}; expected a new file, {KINDS[self._kind]}, or --force"
            )

    # How it is written.

    @contextmanager
    def _open_stream(self, descriptor: int, mode: str) -> Iterator[IO[Any]]:
        if descriptor == 1:
            self._stream.flush()
            raw = getattr(self._stream, "buffer", None)
            if raw is None:  # a text stream that a caller put there
                yield self._stream
                return
        else:
            # One that does not wait (O_NONBLOCK) would take no more than its reader has room for.
            os.set_blocking(descriptor, True)
            raw = os.fdopen(os.dup(descriptor), "wb")
        file = raw if "b" in mode else io.TextIOWrapper(raw, "utf-8", newline="\n")
        try:
            yield file
            file.flush()
        finally:
            if file is not raw:
                with suppress(OSError):
                    file.detach()
            if descriptor != 1:
                raw.close()

    def _open_device(self, mode: str) -> IO[Any]:
        handle = os.open(self._target, os.O_WRONLY)  # never created: it may have gone meanwhile
        return os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8")

    @contextmanager
    def _file_beside(self) -> Iterator[tuple[int, str]]:
        """An open file in the same folder, and its name; it goes when the block fails."""
        import tempfile  # not at the start: help and refusals need none

        handle, beside = tempfile.mkstemp(prefix=".dpamt-", dir=os.path.dirname(self._target))
        try:
            yield handle, beside
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    @contextmanager
    def _open_file(self, mode: str) -> Iterator[IO[Any]]:
        with self._file_beside() as (handle, beside):
            with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            self._put_in_place(beside)
            self.written = True

    def _put_in_place(self, beside: str) -> None:
        """By one rename, with the owner, permissions and attributes of the file that was there."""
        now = self._stat()
        if now is not None and not _is_unchanged(now, self._seen):
            self._seen = now
            self.check()
        if now is None:
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(beside, 0o666 & ~umask)
        else:
            with suppress(PermissionError):  # another's file, in a folder of ours
                os.chown(beside, now.st_uid, now.st_gid)
            os.chmod(beside, now.st_mode & 0o777)
            _copy_attributes(self._target, beside)
        os.replace(beside, self._target)
        self._seen = self._stat()


class OutputFolder:
    """A folder that a command was asked to write files of fixed names to."""

    def __init__(
        self, path: str, names: Sequence[str], kind: str = "", force: bool = False
    ) -> None:
        self.path = path
        self.files = {name: Output(os.path.join(path, name), kind, force) for name in names}

    def __str__(self) -> str:
        return self.path

    @property
    def written(self) -> bool:
        """Whether all of its files have taken their places."""
        return all(one.written for one in self.files.values())

    def identities(self) -> list[tuple[Any, ...] | None]:
        """Of the folder and of its files."""
        return [Output(self.path).identity(), *(one.identity() for one in self.files.values())]

    def check(self) -> None:
        """Raise InputError, before any work, for what could not or must not be written."""
        at = Path(self.path)
        if self.path in ("", STDOUT) or (os.path.lexists(at) and not at.is_dir()):
            raise InputError(f"{self.path}: is not a folder; expected a folder to write to")
        if at.is_dir():
            for one in self.files.values():
                one.check()
            return
        above = next(folder for folder in at.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise InputError(f"{self.path}: cannot be made in {above}; expected a folder to write")
        import tempfile

        try:  # as for a file: /sys and a full disk refuse root too
            os.rmdir(tempfile.mkdtemp(prefix=".dpamt-", dir=above))
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be made in {above}: {_why(error)}; expected a folder to write"
            ) from None

    @contextmanager
    def open(self) -> Iterator[dict[str, IO[Any]]]:
        """Its files, binary: they take their places together when the block ends well.

        Raises InputError when they cannot be written.
        """
        try:
            Path(self.path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: {_why(error)}; expected a folder to write to") from None
        with ExitStack() as stack:
            opened = {name: stack.enter_context(one.open("wb")) for name, one in self.files.items()}
            yield opened
            try:
                for file in opened.values():  # all that may fail comes before the first rename
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise InputError(
                    f"{self.path}: {_why(error)}; expected a folder to write to"
                ) from None


def check_outputs(
    outputs: Sequence[tuple[str, Output | OutputFolder]], inputs: Sequence[tuple[str, str]]
) -> None:
    """Refuse, by an InputError before any work, an output that is an input of the same command,
    another output, or the file behind a stream of this process.

    Both come as (option, value); an input that is no file is none.
    """
    streams: dict[tuple[Any, ...] | None, str] = {
        _identity_of_stream(descriptor): what
        for descriptor, what in ((1, "standard output"), (2, "standard error"))
    }
    taken: dict[tuple[Any, ...], str] = {}
    with suppress(OSError):  # whether it is read or not: no command writes over it
        read = os.fstat(0)
        if stat.S_ISREG(read.st_mode):
            taken[_identity(read)] = "standard input"
    for option, path in inputs:
        with suppress(OSError, ValueError):
            seen = os.stat(path)
            if not stat.S_ISCHR(seen.st_mode):
                taken[_identity(seen)] = f"{option} {path}"
    for option, output in outputs:
        identities = _identities(output)
        is_stream = isinstance(output, Output) and output.is_stream
        for identity in identities:
            other = taken.get(identity) or (None if is_stream else streams.get(identity))
            if other:
                raise InputError(
                    f"{option} {output} is the same file as {other}; expected another file"
                )
        taken |= dict.fromkeys(identities, f"{option} {output}")
    for _, output in outputs:
        output.check()


@contextmanager
def replaced(path: "str | Output", mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write to, which takes the place of ``path`` when the block ends; when the block is
    left by an exception there is none.  ``mode``: ``w`` (UTF-8) or ``wb``.

    A plain path replaces whatever file is there: the caller knows what it is.
    Raises InputError when it cannot be written.
    """
    with (path if isinstance(path, Output) else Output(path)).open(mode) as file:
        yield file


def _identities(output: Output | OutputFolder) -> list[tuple[Any, ...]]:
    if isinstance(output, OutputFolder):
        return [one for one in output.identities() if one is not None]
    found = output.identity()
    return [] if found is None else [found]


def _identity(seen: os.stat_result) -> tuple[Any, ...]:
    return seen.st_dev, seen.st_ino


def _identity_of_stream(descriptor: int) -> tuple[Any, ...] | None:
    """A regular file or a pipe by what it is, so that other names of it are found."""
    try:
        seen = os.fstat(descriptor)
    except OSError:
        return None
    if stat.S_ISREG(seen.st_mode) or stat.S_ISFIFO(seen.st_mode):
        return _identity(seen)
    return ("stream", descriptor)


def _descriptor(path: str) -> int | None:
    """The number in ``/dev/fd/N``, in ``/dev/stdout`` and in whatever leads there by links."""
    if path == STDOUT:
        return 1
    own = re.compile(rf"/dev/fd|/proc/{os.getpid()}(/task/\d+)?/fd")
    at = path
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(at)
        folder = os.path.realpath(folder or ".")
        if name.isdigit() and own.fullmatch(folder):
            return int(name)
        try:
            at = os.path.join(folder, os.readlink(os.path.join(folder, name)))
        except (OSError, ValueError):
            return None
    return None


def _number(stream: Any) -> int | None:
    try:
        number: int = stream.fileno()
    except (OSError, AttributeError):
        return None
    return number


def _copy_attributes(source: str, target: str) -> None:
    """Extended attributes, access control lists among them, as far as the file system lets us."""
    with suppress(OSError):
        for name in os.listxattr(source):
            with suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))


def _is(seen: os.stat_result | None, what: Any) -> bool:
    return seen is not None and what(seen.st_mode)


def _is_unchanged(now: os.stat_result, then: os.stat_result | None) -> bool:
    return then is not None and all(
        getattr(now, name) == getattr(then, name)
        for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    )


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
