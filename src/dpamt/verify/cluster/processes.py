"""Shards as processes of this machine, each a Python of its own, spoken to through pipes.

A message is a pickled tuple behind its length; both ends are dpamt, nothing else can write there:
the pipes have descriptors of their own, so a design may print.  What it prints comes from the
process that learns, once; a shard's standard output goes nowhere.

A shard is in a session of its own: Ctrl-C at the terminal reaches the process that asks alone.  A
shard ends when its pipe does, so none is left over, however the one who asks has ended.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, Final, Self

from dpamt.errors import DpamtError, ModelError

_LENGTH: Final = 8
"""Bytes of a message's length."""


class _Shard:
    """One process and both ends of its talk."""

    def __init__(self) -> None:
        asked, self._questions = os.pipe()
        self._answers, answered = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(asked), str(answered)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(asked, answered),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._questions)
            os.close(self._answers)
            raise
        finally:
            os.close(asked)
            os.close(answered)
        self.questions = open(self._questions, "wb")  # noqa: SIM115  (closed by end)
        self.answers = open(self._answers, "rb")  # noqa: SIM115

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        for pipe in (self.questions, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


class Processes:
    """N shards of the search that is asked for; a context that begins and ends them."""

    def __init__(self, count: int, asked: dict[str, Any]) -> None:
        self.count = count
        self._asked = asked
        self._shards: list[_Shard] = []

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call that method of every shard; raises what a shard raises."""
        return self._send([(method, each) for each in arguments])

    def _send(self, messages: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        answers = []
        try:
            for shard, message in zip(self._shards, messages, strict=True):
                _write(shard.questions, message)
            for shard in self._shards:
                answers.append(_read(shard.answers))
        except (EOFError, BrokenPipeError):
            raise ModelError(f"a shard has ended: code {shard.process.wait()}") from None
        for failed, value in answers:
            if failed:
                raise value
        return [value for _, value in answers]

    def __enter__(self) -> Self:
        try:
            for _ in range(self.count):
                self._shards.append(_Shard())
            self._send([("begin process", (n, self.count, self._asked)) for n in range(self.count)])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        for shard in self._shards:
            shard.end()


def _write(pipe: IO[bytes], message: object) -> None:
    packed = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    pipe.write(len(packed).to_bytes(_LENGTH, "little"))
    pipe.write(packed)
    pipe.flush()


def _read(pipe: IO[bytes]) -> Any:
    length = pipe.read(_LENGTH)
    if len(length) < _LENGTH:
        raise EOFError
    return pickle.loads(pipe.read(int.from_bytes(length, "little")))


def serve(source: IO[bytes], answers: IO[bytes]) -> None:
    """Be a shard until nobody asks any more."""
    from dpamt.verify.cluster.worker import Shard

    shard: Shard | None = None
    while True:
        try:
            method, arguments = _read(source)
        except EOFError:
            return
        try:
            if shard is None:
                shard = Shard(*arguments)
                answer: tuple[bool, Any] = False, None
            else:
                answer = False, getattr(shard, method)(*arguments)
        except DpamtError as error:
            answer = True, error
        except Exception as error:
            answer = True, ModelError(f"a shard: {type(error).__name__}: {error}")
        _write(answers, answer)


def main(arguments: Sequence[str]) -> None:
    """The process of a shard: ``arguments`` are the descriptors that it is spoken to through."""
    asked, answered = map(int, arguments)
    with (
        open(asked, "rb") as source,
        contextlib.suppress(BrokenPipeError),  # nobody is there any more
        open(answered, "wb") as answers,
    ):
        serve(source, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
