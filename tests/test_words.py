"""Documents, help and docstrings use plain words: none that only the authors understand."""

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dpamt.cli.main import VERBS
from dpamt.cli.parsers import parsers

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src" / "dpamt"

WORDS: Final = {
    r"so many": "give the number, or say 'N pages'",
    r"told": "'reported', 'shown', 'named'",
    r"crumbs?": "'small free fragments'",
    r"twins?": "'two that are alike'",
    r"anew": "'again'",
    r"goes? on with": "'continues'",
    r"as (often|well|densely) as (it|can) (must|be)": "'as possible', 'until'",
    r"it is so": "'this holds'",
    r"but for (the|what|those|them|its|pages)": "'except'",
    r"(was|were|is|are) to be had": "'was available', 'there is'",
    r"ha(s|ve) (it|them) no more": "'no longer has it'",
    r"as (it|they) ha(s|ve) to be": "'right', 'ok'",
}
"""What nobody says, and what to say."""

PATTERN: Final = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)

DOCUMENTS: Final = sorted(
    {
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "packaging").rglob("*.md"),
        *(ROOT / "tests").rglob("README.md"),
    }
)


def found_in(text: str) -> list[str]:
    """Each with its line."""
    lines = " ".join(text.split("\n"))
    return [match[0] for match in PATTERN.finditer(lines)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents(path: Path) -> None:
    assert found_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb: str) -> None:
    assert found_in(f"{VERBS[verb]} {parsers()[verb].format_help()}") == []


def written(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of comments, docstrings and messages; names in ``{}`` are left out."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            is_text = token.type in (tokenize.COMMENT, tokenize.STRING)
            if is_text and not token.string.strip("\"'").isidentifier():  # the name of a type
                yield token.start[0], re.sub(r"\{[^{}]*\}", "", token.string)


def test_docstrings_comments_and_messages() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, text in written(path)
        for word in found_in(text)
    ]
    assert found == []


def test_the_words_are_found() -> None:
    """The pattern itself, over a line's end too."""
    assert found_in("Both are told, so\nmany pages of it") == ["told", "so many"]
    assert found_in("untold stories of the twinkling crumble") == []
