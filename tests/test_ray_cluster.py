"""A Ray cluster that is not there."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dpamt import ray_cluster
from dpamt.errors import InputError
from dpamt.ray_cluster import _answers, connect


def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(
        InputError, match=r"^--ray 127.0.0.1:1: .*; expected a running Ray cluster$"
    ):
        connect("127.0.0.1:1")


def test_without_ray_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^--ray: Ray is not installed; expected dpamt\[ray\]$"):
        connect("auto")


@contextmanager
def listening(says: bytes | None) -> Iterator[str]:
    """Something at a port that takes a connection, says this and no more; None: it hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def serve() -> None:
            try:
                taken.append(server.accept()[0])
            except OSError:
                return
            if says is None:
                taken[0].recv(100)
                taken[0].close()
            else:
                taken[0].sendall(says)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in taken:
                one.close()


SETTINGS = bytes((0, 0, 18, 4, 0, 0, 0, 0, 0)) + bytes(18)


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"", "nothing came back within 0 s"),
        (SETTINGS[:5], "nothing came back within 0 s"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "what answers there is something else"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what answers there is something else"),
        (SETTINGS.replace(b"\x04", b"\x07"), "what answers there is something else"),
        (None, "it ended the connection"),
    ],
)
def test_what_takes_the_connection_and_is_no_cluster(
    says: bytes | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would try for two minutes."""
    monkeypatch.setattr(ray_cluster, "_CONNECT_SECONDS", 0.3)
    begun = time.monotonic()
    with listening(says) as address, pytest.raises(InputError) as refused:
        _answers(address)
    said = str(refused.value)
    assert said.startswith(f"--ray {address}: ")
    assert (why in said) or (says is None and "reset" in said)
    assert said.endswith("; expected a running Ray cluster")
    assert time.monotonic() - begun < 5


def test_a_server_of_http_2_may_be_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(SETTINGS) as address:
        _answers(address)
    with listening(SETTINGS) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        _answers("auto")
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"") as address:
        _answers(address)


def test_a_cluster_that_runs_is_one() -> None:
    """Ray's own server begins as the standard says, asked as we ask."""
    ray = pytest.importorskip("ray")
    connect("local", cpus=1)
    try:
        address = ray.get_runtime_context().gcs_address
        _answers(address)
    finally:
        ray.shutdown()
