"""The notation of TDs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.plan.mix import MAX_TDS, MAX_VCPUS, TdMix, parse_mix

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("40x16GiB/4vcpu@2M=90%", TdMix(40, 16 * GIB, 4, 0.9)),
        ("16GiB", TdMix(1, 16 * GIB, 1, 0.0)),
        (" 2 x 1.5TiB / 64 vcpus @ 2m = 99.5 % ", TdMix(2, 3 << 39, 64, 0.995)),
        ("3*4MiB@2M=0%", TdMix(3, 4 << 20, 1, 0.0)),
    ],
)
def test_forms(text: str, mix: TdMix) -> None:
    assert parse_mix(text) == mix


@given(
    st.builds(
        TdMix,
        st.integers(1, MAX_TDS),
        st.integers(1, 1 << 20).map(lambda ranges: ranges << 21),
        st.integers(1, MAX_VCPUS),
        st.integers(0, 100).map(lambda percent: percent / 100),
    )
)
def test_a_mix_is_read_as_it_is_written(mix: TdMix) -> None:
    assert parse_mix(str(mix)) == mix


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1x16GiB",
        "0x16GiB",
        "40x-16GiB",
        "40x16",
        "40x1MiB",
        "40x3MiB",
        "40x16GiB/0vcpu",
        "40x16GiB/-4vcpu",
        "40x16GiB/4",
        "40x16GiB@2M=101%",
        "40x16GiB@2M=-1%",
        "40x16GiB@2M=nan%",
        "40x16GiB@1G=50%",
        "40x128TiB",
        "1e3x16GiB",
        "40x16GiB/4vcpu@2M=90%; rm",
        "9" * 400,
    ],
)
def test_nonsense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_mix(text)
    assert "expected" in str(refused.value)
    assert "\n" not in str(refused.value)
