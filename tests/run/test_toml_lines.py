"""Lines of values: against texts whose lines are known because they were put together so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.run.toml_lines import Lines, read_toml

VALUES = st.sampled_from(
    [
        "1",
        "-1.5e3",
        "true",
        '"a # b = [c]"',
        "'it\\'",
        '"quote \\" in"',
        "2026-09-04T00:00:00Z",
        "[1, 2, 3]",
        '[ "a", "]" ]',
        "[\n  1,\n\n  # a comment with ] and {\n  2,\n]",
        '"""\ntwo\nlines " and ""\n"""',
        "'''\nraw\n\\n'''",
        "{ x = 1, y = { z = [1] } }",
    ]
)
KEYS = st.sampled_from(["a", "b-c", "d_e", '"quoted key"', "'f.g'", "h . i", "1"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, Lines]:
    """A TOML text and the line of each table and key in it."""
    lines: list[str] = []
    known: Lines = {}
    seen: set[str] = set()
    elements: dict[str, int] = {}

    def put(text: str) -> int:
        lines.extend(text.split("\n"))
        return len(lines) - text.count("\n")

    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()):
            put(draw(st.sampled_from(["", "# [not.a.table]", "   ", '# k = "'])))
        name = draw(st.sampled_from(["t", "u", "v"]))
        index = elements[name] = elements.get(name, -1) + 1
        path = f"{name}[{index}]"
        known[path] = put(f"[[{name}]]  # header")
        seen.clear()
        for _ in range(draw(st.integers(0, 4))):
            key, value = draw(KEYS), draw(VALUES)
            plain = ".".join(part.strip().strip("\"'") for part in [key])
            plain = plain.replace(" . ", ".")
            if plain in seen:
                continue
            seen.add(plain)
            known[f"{path}.{plain}"] = put(f"  {key} = {value} # end")
    return "\n".join(lines) + "\n", known


@given(documents())
def test_lines_are_those_the_text_was_made_with(made: tuple[str, Lines]) -> None:
    text, known = made
    _document, lines = read_toml(text, "made.toml")
    assert {path: lines.get(path) for path in known} == known


def test_elements_of_arrays_and_inline_tables() -> None:
    text = 'steps = [\n  { do = "a" },\n  # between\n  { do = "b", td = [\n\n 1] },\n]\n'
    _document, lines = read_toml(text, "x")
    assert lines["steps"] == 1
    assert lines["steps[0].do"] == 2
    assert lines["steps[1]"] == lines["steps[1].do"] == 4
    assert lines["steps[1].td"] == 4
    assert lines["steps[1].td[0]"] == 6


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("a = 1\n\n\na = 2\n", 4), ('a = 1\nb = "x', 2), ("[t\n", 1)],
)
def test_bad_syntax_names_its_line(text: str, line: int) -> None:
    with pytest.raises(InputError, match=r"^f\.toml:(\d+): not valid TOML: ") as caught:
        read_toml(text, "f.toml")
    found = int(str(caught.value).split(":")[1])
    # Python's reader notices a doubled key only when the line is over.
    assert found in (line, line + 1)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InputError, match="nested"):
        read_toml("a = " + "[" * 100_000, "f.toml")
