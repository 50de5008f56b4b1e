"""Text of a machine cut into lines, and what is refused, with its number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.platform.lines import Line, address, decode, refuse, split_lines

TEXT = st.text(st.sampled_from("ab\r\n\x0b\x0c\x85\u2028 "), max_size=30)


@given(TEXT)
def test_lines_are_cut_at_newlines_only(text: str) -> None:
    """Put together again they are the text, but for carriage returns before a newline."""
    lines = split_lines(text)
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert all(line.ended for line in lines[:-1])
    again = "".join(line.text + "\n" * line.ended for line in lines)
    while "\r\n" in text:
        text = text.replace("\r\n", "\n")
    assert again == text
    assert all("\n" not in line.text for line in lines)


def test_what_is_no_text_is_told_with_its_line() -> None:
    assert decode(b"\xef\xbb\xbfa\xc3\xa9\n", "f") == "a\u00e9\n"
    with pytest.raises(InputError) as caught:
        decode(b"a\nb\n\xffc", "f.log")
    assert str(caught.value) == "f.log:3: found byte 0xff at offset 4; expected UTF-8 text"
    with pytest.raises(InputError) as caught:
        decode(b"a\nb\0", "f.log")
    assert str(caught.value) == "f.log:2: found a zero byte at offset 3; expected UTF-8 text"


def test_addresses_end_below_two_to_the_52() -> None:
    line = Line(7, "  0x10000000000000  ", True)
    assert address("fffffffffffff", "f", line) == (1 << 52) - 1
    with pytest.raises(InputError) as caught:
        address("10000000000000", "f", line)
    told = "f:7: found '0x10000000000000'; expected addresses below 2^52"
    assert str(caught.value) == told


def test_a_long_line_is_shown_shortened() -> None:
    assert str(refuse("f", 2, "a\tb", "c")) == "f:2: found 'a\\tb'; expected c"
    told = str(refuse("f", 2, "x" * 500, "c"))
    assert told.startswith("f:2: found 'xxx")
    assert told.endswith("x...'; expected c")
    assert len(told) < 200
