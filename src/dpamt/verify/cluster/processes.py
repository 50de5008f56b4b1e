"""Shards as processes of this machine, each a Python of its own, spoken to through pipes.

A message is a pickled tuple behind its length; both ends are dpamt, nothing else can write there.
"""

import contextlib
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, Final, Self

from dpamt.errors import DpamtError, ModelError

_LENGTH: Final = 8
"""Bytes of a message's length."""


class Processes:
    """So many shards of the search that is asked for; a context that ends them."""

    def __init__(self, count: int, asked: dict[str, Any]) -> None:
        self.count = count
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "dpamt.verify.cluster.processes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(count)
        ]
        self._send([("begin process", (index, count, asked)) for index in range(count)])

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call that method of every shard; raises what a shard raises."""
        return self._send([(method, each) for each in arguments])

    def _send(self, messages: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        for process, message in zip(self._processes, messages, strict=True):
            assert process.stdin is not None
            _write(process.stdin, message)
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            try:
                answers.append(_read(process.stdout))
            except EOFError:
                raise ModelError(f"a shard has ended: code {process.wait()}") from None
        for failed, value in answers:
            if failed:
                raise value
        return [value for _, value in answers]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            process.wait()


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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asks ends it
    serve(sys.stdin.buffer, sys.stdout.buffer)
