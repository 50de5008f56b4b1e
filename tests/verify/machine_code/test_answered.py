"""The table of calls, and the page that shows it."""

from pathlib import Path

from dpamt.verify.machine_code import answered

PAGE = Path(__file__).parents[3] / "docs" / "machine-code.md"


def test_the_page_shows_the_whole_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = {
        *answered.LOCKS,
        *answered.RWLOCKS,
        *answered.MUTEXES,
        *answered.COUNT_AND_LOCK,
        *answered.ALLOC,
        *answered.FREE,
        *answered.SEAMCALLS,
        *answered.RESET,
        *answered.PRINT,
        *answered.WARNS,
        *answered.LISTS,
        *answered.MAY_SLEEP,
        *answered.NOTHING,
        *answered.RETURN_THUNKS,
        *answered.REFUSED,
    }
    missing = sorted(name for name in names if f"`{name}`" not in text)
    assert missing == []


def test_no_function_is_in_two_rows() -> None:
    rows = (
        answered.LOCKS,
        answered.RWLOCKS,
        answered.MUTEXES,
        answered.COUNT_AND_LOCK,
        answered.ALLOC,
        answered.FREE,
        answered.SEAMCALLS,
        answered.RESET,
        answered.PRINT,
        answered.WARNS,
        answered.LISTS,
        answered.MAY_SLEEP,
        answered.NOTHING,
        answered.RETURN_THUNKS,
        answered.REFUSED,
    )
    every = [name for row in rows for name in row]
    assert len(every) == len(set(every))
