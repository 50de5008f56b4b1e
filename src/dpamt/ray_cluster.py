"""A Ray cluster (extra ``ray``): connect to one, or say in one line why not."""

import os
import socket
import time
from importlib import import_module
from typing import Any, Final

from dpamt.errors import InputError

_CONNECT_SECONDS: Final = 5.0
_EMPTY_SETTINGS: Final = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A frame of HTTP/2: three bytes of length, its type (SETTINGS), flags, and stream 0 in four bytes.
Source: RFC 9113, 4.1 and 6.5."""
_QUIET: Final = {
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^(A worker died or was killed|The node with node id)",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_NUM_REDIS_GET_RETRIES": "3",
}
"""Ray's environment.  Where a cluster refuses us (its token), Ray would try 20 times.  What a user
has to know of Ray's troubles is said in one line of ours; Ray's lines about them would stand among
the results.  Source: Ray's documentation, "Configuring logging"."""


def connect(address: str, cpus: int | None = None) -> Any:
    """The module ``ray``, connected to the cluster at ``address``; the caller shuts it down.

    ``address`` is what ray.init() takes (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``).  With
    ``local`` a cluster is started on this machine, with ``cpus`` CPUs (None: all).  Raises
    InputError when Ray is not installed or nothing answers there.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise InputError("--ray: Ray is not installed; expected dpamt[ray]") from None
    _answers(address)
    try:
        ray.init(
            address=address,
            num_cpus=cpus if address == "local" else None,
            include_dashboard=False,
            logging_level="error",
            log_to_driver=False,
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(f"--ray {address}: {said}; expected a running Ray cluster") from None
    return ray


def _answers(address: str) -> None:
    """Refuse HOST:PORT where no Ray cluster can be: Ray itself would try for minutes.

    Ray speaks gRPC, hence HTTP/2, and a server of HTTP/2 begins with a frame of settings whatever
    it is asked (RFC 9113, 3.4).  Under TLS only the connection is tried.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address:
        return
    try:
        place = (host.removeprefix("[").removesuffix("]"), int(port))
        with socket.create_connection(place, _CONNECT_SECONDS) as server:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                _settings(server)
    except TimeoutError:
        why = f"nothing came back within {_CONNECT_SECONDS:.0f} s"
        raise InputError(f"--ray {address}: {why}; expected a running Ray cluster") from None
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"--ray {address}: {error}; expected a running Ray cluster") from None


def _settings(server: socket.socket) -> None:
    """Raises OSError where what answers is no server of HTTP/2, or does not answer in time."""
    server.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _EMPTY_SETTINGS)
    head, end = b"", time.monotonic() + _CONNECT_SECONDS
    while len(head) < len(_EMPTY_SETTINGS):
        server.settimeout(max(end - time.monotonic(), 0.001))
        more = server.recv(len(_EMPTY_SETTINGS) - len(head))
        if not more:
            raise OSError("it ended the connection")
        head += more
    if head[3:5] != _EMPTY_SETTINGS[3:5] or any(head[5:]):
        raise OSError("what answers there is something else")
