"""Which tests reach which lines, and what they say of a mutant: pytest in forks of this process.

A fork has pytest and the slow libraries imported already.  It must not have any of ours: the tests
import the copy, whose one changed file is compiled again while all others keep their bytecode.
"""

import contextlib
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import coverage
import pytest

from tests.mutants_made import Mutant

_FOLDERS: Final = ("src", "tests", "docs", "examples", "benchmarks", "packaging")
_FILES: Final = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile")
_WARM: Final = ("hypothesis", "numpy", "rich.console", "rich.progress", "rich.table", "pyarrow")
# Without shrinking and with the same examples each time: a killed mutant is killed in a moment.
_CONFTEST: Final = """

from hypothesis import HealthCheck, Phase

settings.register_profile(
    "mutants",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=60,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutants")
"""
_SLOW: Final = 3.0
"""CPU seconds of a test, with its lines counted, from which on it is left out."""
_SETS: Final = 5
"""Sets of parameters of a test function that come before the others."""
_WAITING: Final = 30.0
"""The same in seconds of the clock, for what waits or runs in other processes."""
_MEMORY: Final = 12 << 30


class _Slow(BaseException):
    """A test has taken too long to run on every mutant."""


class Copy:
    """The checkout once more, where one file at a time is changed."""

    def __init__(self, root: Path, place: Path) -> None:
        self.place = place
        self.kept = place.parent / "mutants-reach"
        for module in _WARM:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        left_out = shutil.ignore_patterns("*.egg-info", "__pycache__")
        for folder in _FOLDERS:
            shutil.copytree(root / folder, place / folder, ignore=left_out)
        for file in _FILES:
            shutil.copy2(root / file, place / file)
        with (place / "tests" / "conftest.py").open("a", encoding="utf-8") as conftest:
            conftest.write(_CONFTEST)
        shutil.copy2(root / "pyproject.toml", place / "pyproject.toml")
        compile_all = [sys.executable, "-m", "compileall", "-q", "src"]
        subprocess.run(compile_all, cwd=place, check=True)

    def pytest(
        self, arguments: list[str], plugin: object, cpu: float | None, out: Path
    ) -> int | None:
        """pytest's exit code, from a fork; None where its time ran out."""
        child = os.fork()
        if not child:
            code = 70
            try:
                code = self._in_child(arguments, plugin, cpu, out)
            finally:
                os._exit(code)
        end = time.monotonic() + (20 * cpu + 60 if cpu else 7200)
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return None
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what its tests may have left running
        code = os.waitstatus_to_exitcode(status)
        return None if code in (-signal.SIGXCPU, -signal.SIGKILL) else code

    def _in_child(self, arguments: list[str], plugin: object, cpu: float | None, out: Path) -> int:
        os.setpgid(0, 0)
        os.chdir(self.place)
        with out.open("wb") as file, Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if cpu is not None:
            spent = time.process_time()
            soft = int(spent + cpu) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 2))
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        for name in [n for n in sys.modules if n.partition(".")[0] in ("dpamt", "tests")]:
            del sys.modules[name]
        sys.path[:0] = [str(self.place / "src"), str(self.place)]
        os.environ["PYTHONPATH"] = f"{self.place / 'src'}:{self.place}"
        base = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
        base += [f"--rootdir={self.place}", f"--basetemp={self.place.parent / 'mutants-tmp'}"]
        return int(pytest.main([*base, *arguments], plugins=[plugin]))

    def judge(self, mutant: Mutant, tests: list[tuple[str, float]], seconds: float) -> str:
        """killed, hung, survived, or not reached; the tests with their usual CPU seconds."""
        wanted: set[str] = set()
        usual = 0.0
        for name, takes in tests:
            if wanted and usual + takes > seconds:
                break
            wanted.add(name)
            usual += takes
        if not wanted:
            return "not reached"
        file = self.place / "src" / "dpamt" / mutant.file
        beside = file.with_name(file.name + ".as-it-is")
        shutil.copy2(file, beside)
        file.write_text(mutant.source, encoding="utf-8")
        order = {name: place for place, (name, _) in enumerate(tests)}
        files = sorted({name.partition("::")[0] for name in wanted})
        try:
            out = self.place.parent / "mutants.out"
            code = self.pytest(["-x", *files], _Only(wanted, order), 4 * usual + 8, out)
        finally:
            beside.replace(file)
        if code is None:
            return "hung"
        return "survived" if code in (0, 5) else "killed"


class _Only:
    """A pytest plugin: these tests alone, quickest first."""

    def __init__(self, wanted: set[str], order: dict[str, int]) -> None:
        self.wanted = wanted
        self.order = order

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.wanted]
        items.sort(key=lambda item: self.order[item.nodeid])


class _Watch:
    """A pytest plugin: the lines and the CPU time of each test that passes."""

    def __init__(self, source: Path, out: Path, seconds: float, seed: str) -> None:
        self.out = out
        self.source = source
        self.place = source.parent.parent
        self.seconds = seconds
        self.random = random.Random(seed)
        self.found = 0
        self.cover: Any = coverage.Coverage(data_file=None, config_file=False, source=[str(source)])
        self.times: dict[str, float] = {}
        self.left: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """In random order, so that what the time is not enough for is any of them."""
        self.found = len(items)
        self.random.shuffle(items)
        sets: Counter[str] = Counter()
        first: list[pytest.Item] = []
        later: list[pytest.Item] = []
        for item in items:
            function = item.nodeid.partition("[")[0]
            sets[function] += 1
            (first if sets[function] <= _SETS else later).append(item)
        items[:] = first + later

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.cover.switch_context(item.nodeid)
        start = time.process_time()
        yield
        self.times[item.nodeid] = time.process_time() - start
        self.seconds -= self.times[item.nodeid]
        if self.seconds < 0:
            item.session.shouldstop = "the time for this is over"

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        signal.signal(signal.SIGVTALRM, self._too_slow)
        signal.signal(signal.SIGALRM, self._too_slow)
        signal.setitimer(signal.ITIMER_VIRTUAL, _SLOW)
        signal.setitimer(signal.ITIMER_REAL, _WAITING)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            slow = "_Slow" in str(report.longrepr)
            self.left[report.nodeid] = "slow" if slow else report.outcome

    def _too_slow(self, which: int, frame: FrameType | None) -> None:
        """Break the test off, but only in our own code: a library might hold a lock just then."""
        if frame is not None and frame.f_code.co_filename.startswith(str(self.place)):
            raise _Slow
        timer = signal.ITIMER_REAL if which == signal.SIGALRM else signal.ITIMER_VIRTUAL
        signal.setitimer(timer, 0.01)

    def pytest_sessionstart(self) -> None:
        self.cover.start()

    def pytest_sessionfinish(self) -> None:
        self.cover.stop()
        data = self.cover.get_data()
        lines = {
            str(Path(file).relative_to(self.source)): {
                str(line): sorted(set(names))
                for line, names in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        found = {"found": self.found, "times": self.times, "left": self.left, "lines": lines}
        self.out.write_text(json.dumps(found), encoding="utf-8")


class Reach:
    """What the tests of a package reach; kept in ``build`` until source or tests change."""

    def __init__(
        self, copy: Copy, tests: list[str], left_out: tuple[str, ...], seconds: float, seed: str
    ) -> None:
        copy.kept.mkdir(exist_ok=True)
        texts = sorted((copy.place / "src").rglob("*.py"))
        for test in tests:
            at = copy.place / test
            texts += [at] if at.is_file() else sorted(at.rglob("*.py"))
        parts = [f"{seconds} {seed} {tests}".encode(), *(path.read_bytes() for path in texts)]
        digest = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
        kept = copy.kept / f"{digest}.json"
        out = copy.kept / f"{digest}.out"
        if not kept.exists():
            ignored = [f"--ignore={copy.place / folder}" for folder in left_out]
            watch = _Watch(copy.place / "src" / "dpamt", kept, seconds, seed)
            copy.pytest([*ignored, *tests], watch, None, out)
        if not kept.exists():
            raise SystemExit(f"the tests did not run: see {out}")
        found = json.loads(kept.read_text(encoding="utf-8"))
        self.found: int = found["found"]
        self.times: dict[str, float] = found["times"]
        self.left: dict[str, str] = found["left"]
        self.lines: dict[str, dict[str, list[str]]] = found["lines"]

    def about(self) -> str:
        kinds = [f"{list(self.left.values()).count(k)} {k}" for k in sorted({*self.left.values()})]
        out = f"; left out: {', '.join(kinds)}" if kinds else ""
        used = [self.times[name] for name in self.times if name not in self.left]
        spent = f"{sum(used):.0f} s of CPU with their lines counted"
        return f"{len(used)} of {self.found} tests, {spent}{out}"

    def tests(self, mutant: Mutant) -> list[tuple[str, float]]:
        """Tests that reach the change, then those that reach its function; each quickest first.

        What runs while files are imported is used anywhere: there, all tests follow.
        """
        lines = self.lines.get(mutant.file, {})

        def reaching(first: int, last: int) -> set[str]:
            names: set[str] = set()
            for line in range(first, last + 1):
                names.update(lines.get(str(line), ()))
            return names - set(self.left)  # the empty name stands for imports

        near = reaching(mutant.first, mutant.last)
        far = reaching(*mutant.body) - near
        imported = not mutant.function or "" in near | far
        rest = {*self.times} - near - far - {*self.left} if imported else set()
        near, far = near - {""}, far - {""}
        ordered = [*sorted(near, key=self.times.__getitem__)]
        ordered += sorted(far, key=self.times.__getitem__)
        ordered += sorted(rest, key=self.times.__getitem__)
        return [(name, self.times[name]) for name in ordered]
