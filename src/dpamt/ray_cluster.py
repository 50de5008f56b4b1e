"""A Ray cluster (extra ``ray``): connect to one, or say in one line why not."""

import os
import socket
from importlib import import_module
from typing import Any, Final

from dpamt.errors import InputError

_CONNECT_SECONDS: Final = 5.0
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
    """Refuse HOST:PORT where nobody answers: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address:
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"--ray {address}: {error}; expected a running Ray cluster") from None
