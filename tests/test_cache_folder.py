"""Where the cache is: for users with a home folder, without one, and with a strange one."""

import os
import pwd
from pathlib import Path

import pytest

from dpamt.cache_folder import cache_folder
from dpamt.errors import InputError

HOME = pwd.getpwuid(os.getuid()).pw_dir


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/dpamt"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/dpamt"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/dpamt"),
        ({"HOME": "/h"}, "/h/.cache/dpamt"),
        ({"HOME": "h"}, f"{HOME}/.cache/dpamt"),
        ({"HOME": ""}, f"{HOME}/.cache/dpamt"),
        ({}, f"{HOME}/.cache/dpamt"),
    ],
)
def test_where(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_user_that_the_system_does_not_know(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os, "getuid", lambda: 0x7FFF_0001)
    with pytest.raises(InputError, match=r"^no home folder; expected HOME or XDG_CACHE_HOME"):
        cache_folder()
