from pathlib import Path

import pytest

from dpamt.errors import InputError
from dpamt.trace.recording.symbols import Symbols

TEXT = """ffffffff8105d3f0 T __seamcall
ffffffff8105e775 T tdx_pamt_get
ffffffff82000000 D dpamt_lock
ffffffffc0002599 t tdx_sept_set_private_spte\t[kvm_intel]
"""


def test_addresses_get_their_names(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(TEXT)
    symbols = Symbols(str(path))
    assert symbols.named(b"ffffffff8105e8f3") == b"tdx_pamt_get+0x17e"
    assert symbols.named(b"ffffffffc0002599") == b"tdx_sept_set_private_spte+0x0"
    for same in (b"ffffffff80000000", b"ffffffff82000010", b"kvm_x+0x5", b"", b"-5"):
        assert symbols.named(same) == same


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no function with an address"),
        ("0000000000000000 T __seamcall\n", "no function with an address"),
        ("hello\n", ":1: no symbol"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        Symbols(str(path))


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a copy of /proc/kallsyms"):
        Symbols(str(tmp_path / "none"))
