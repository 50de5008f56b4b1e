"""Which files may be executed for a document: those that were given, and all that are given."""

from dataclasses import replace

import pytest

from dpamt.errors import InputError
from dpamt.verify.asked import Asked
from dpamt.verify.evidence.given_files import GivenFiles

ASKED = Asked("merged", "words", (), "apart", 0, "words", 100)
MINE = replace(ASKED, design="a/mine.py")
OTHER = replace(ASKED, design="b/mine.py")
WITH_FILE = replace(MINE, property_file="p.py")


def test_what_comes_with_dpamt_need_not_be_given() -> None:
    given = GivenFiles("doc", [ASKED], [], None)
    assert given.of(ASKED) == ASKED
    assert given.told() == "Executes no Python file but dpamt's own."


def test_one_file_is_the_one_that_is_named() -> None:
    given = GivenFiles("doc", [ASKED, WITH_FILE], ["/x/yours.py"], "q.py")
    assert given.of(WITH_FILE) == replace(MINE, design="/x/yours.py", property_file="q.py")
    assert given.of(ASKED) == ASKED
    assert given.told() == (
        "Executes /x/yours.py as the design a/mine.py, q.py as the properties; all else is "
        "dpamt's own."
    )


def test_several_are_told_apart_by_their_names() -> None:
    given = GivenFiles("doc", [MINE, replace(MINE, design="v.py")], ["/x/v.py", "/y/mine.py"], None)
    assert given.of(MINE).design == "/y/mine.py"
    exactly = GivenFiles("doc", [MINE, OTHER], ["b/mine.py", "a/mine.py"], None)
    assert (exactly.of(MINE).design, exactly.of(OTHER).design) == ("a/mine.py", "b/mine.py")


@pytest.mark.parametrize(
    ("asked", "designs", "property_file", "told"),
    [
        ([MINE], [], None, "doc: is about the design a/mine.py, which is not executed"),
        ([MINE, OTHER], ["x/mine.py", "y/mine.py"], None, "a/mine.py, which is not executed"),
        ([MINE, OTHER], ["a/mine.py"], None, "b/mine.py, which is not executed"),
        ([ASKED], ["x.py"], None, "x.py: doc is not about such a design"),
        ([MINE, OTHER], ["a/mine.py", "b/mine.py", "c.py"], None, "c.py: doc is not about such"),
        ([WITH_FILE], ["a/mine.py"], None, "has properties of p.py, which is not executed"),
        ([ASKED], [], "p.py", "--property: doc is about no file of properties"),
        (
            [WITH_FILE, replace(WITH_FILE, property_file="q.py")],
            ["a/mine.py"],
            "p.py",
            "properties of several files",
        ),
    ],
)
def test_what_is_refused(
    asked: list[Asked], designs: list[str], property_file: str | None, told: str
) -> None:
    with pytest.raises(InputError) as refused:
        GivenFiles("doc", asked, designs, property_file)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
