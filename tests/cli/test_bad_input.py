"""Bad input, over all commands: one line that says what was expected, exit code 2, nothing else.

A row is a command; files in it are those of :func:`folder`.  Options that have no effect and
outputs that would destroy something have tables of their own (``test_options.py``,
``test_outputs.py``).
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpamt.host.designs import merged

from .command import dpamt, dpamt_as_another, refused

MERGED = Path(merged.__file__).read_text(encoding="utf-8")
TD = '[host]\nmachine = "1GiB"\n[[td]]\nname = "a"\nmemory = "4MiB"\n'
BUILD = '[[phase]]\nname = "up"\nsteps = [{ do = "build" }]\n'

FILES: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 4,
    "latin1": "Größe\n".encode("latin-1"),
    "utf16": "hello".encode("utf-16"),
    "text": b"just some text\n",
    "zeros": b"\0" * 4096,
    "list.json": b"[]\n",
    "number.json": b"5\n",
    "half.json": b'{"format": 1, "designs": [',
    "deep.json": b"[" * 100_000,
    "other.json": b'{"format": 99, "designs": []}\n',
    "none.json": b'{"format": 1, "dpamt": "0.1.0", "clean": true, "designs": []}\n',
    "zip": b"PK\x05\x06" + b"\0" * 18,
    "syntax.py": b"def tdx_pamt_get(:\n",
    "raises.py": b"raise ValueError('a\\nb')\n",
    "leaves.py": b"import sys\nsys.exit(3)\n",
    "nothing.py": b"pass\n",
    "arguments.py": b"def tdx_pamt_get():\n    pass\ndef tdx_pamt_put(kernel, cpu):\n    pass\n",
    "flag.py": (MERGED + "\nDYNAMIC_PAMT = 5\n").encode(),
    "imports.py": b"import no_such_module_anywhere\n",
    "latin1.py": "# Größe\n".encode("latin-1"),
    "empty.toml": b"",
    "comment.toml": b"# nothing\n",
    "broken.toml": b"[host\n",
    "twice.toml": b"seed = 1\nseed = 2\n",
    "latin1.toml": 'title = "Größe"\n'.encode("latin-1"),
    "key.toml": b"sed = 1\n",
    "type.toml": b'seed = "one"\n',
    "seed.toml": b"seed = -1\n",
    "table.toml": b"host = 5\n",
    "size.toml": b'[host]\nmachine = "1GB or so"\n',
    "small.toml": b'[host]\nmachine = "1KiB"\n',
    "machine.toml": b'[host]\nmachine = "no-such.dmesg"\n',
    "module.toml": b'[host]\nmodule = "9.9"\n',
    "nodes.toml": b"[host]\nnodes = 2\n",
    "share.toml": b"[host]\nfragmentation = 1.5\n",
    "nan.toml": b"[host]\nfragmentation = nan\n",
    "inject.toml": b'[host]\ninject = ["NO.SUCH.LEAF"]\n',
    "side.toml": b'[[side]]\nname = "a"\npamt = "sometimes"\n',
    "sides.toml": b'[[side]]\nname = "a"\n[[side]]\nname = "a"\n',
    "design.toml": b'[[side]]\nname = "a"\ndesign = "no-such"\n',
    "tds.toml": TD.encode(),
    "large.toml": TD.replace("4MiB", "4TiB").encode() + BUILD.encode(),
    "odd.toml": TD.replace("4MiB", "3MiB").encode() + BUILD.encode(),
    "image.toml": (TD + 'image = "8MiB"\n' + BUILD).encode(),
    "vcpus.toml": (TD + "vcpus = 0\n" + BUILD).encode(),
    "name.toml": (TD.replace('"a"', '""') + BUILD).encode(),
    "step.toml": (TD + '[[phase]]\nname = "p"\nsteps = [{ do = "fly" }]\n').encode(),
    "order.toml": (TD + '[[phase]]\nname = "p"\nsteps = [{ do = "crash" }]\n' + BUILD).encode(),
    "steps.toml": (TD + '[[phase]]\nname = "p"\nsteps = 5\n' + BUILD).encode(),
    "phase.toml": (TD + '[[phase]]\nname = "end"\nsteps = []\n' + BUILD).encode(),
    "e820": b"BIOS-e820: [mem 0x0-0x3fffffff] usable\n",
    "backwards.e820": b"BIOS-e820: [mem 0x3fffffff-0x0] usable\n",
    "reserved.e820": b"BIOS-e820: [mem 0x0-0x3fffffff] reserved\n",
    "root.iomem": b"00000000-00000000 : System RAM\n",
    "vms.csv": b"vm,start,end\n",
    "lines.jsonl": b"{\n",
    "array.jsonl": b"[]\n",
    "wrong.jsonl": b'{"scenario": 5}\n',
    "elf": b"\x7fELF",
    "fails.prop.py": b"def p(view):\n    return 7\n",
    "named.prop.py": b"def leak(view):\n    return True\n",
    "none.prop.py": b"x = 5\n",
}

COMMANDS = """
run no-such.toml
run folder
run binary
run latin1
run utf16
run text
run zeros
run --memory
run --memory 5
run --memory 0GiB
run --memory -1GiB
run --memory 1e3GiB
run --memory 1PiB
run --memory 1GiB,nodes=0
run --memory 1GiB,nodes=x
run --memory 1GiB,colour=red
run --memory 1.0001GiB
run --host
run --host folder
run --host no-such
run --host binary
run --host empty
run --host text
run --host reserved.e820
run --host backwards.e820
run --host root.iomem
run --design no-such
run --design no-such.py
run --design syntax.py
run --design raises.py
run --design leaves.py
run --design nothing.py
run --design arguments.py
run --design flag.py
run --design imports.py
run --design latin1.py
run --design ./folder
run --pamt
run --pamt both
run --pamt static --design v2
run --pamt dynamic --design static
run --seed x
run --seed -1
run --seed 1.5
run --seed 99999999999999999999
run --inject x
run --inject TDH.VP.ENTER
run --inject TDH.VP.ENTER:busy=RAX
run --inject TDH.MNG.CREATE:no-entropy:times=-1
run --release 9
run --json=yes
run a b
run --no-such
run --seed
run --release
verify no-such
verify no-such.py
verify ./folder
verify syntax.py
verify raises.py
verify leaves.py
verify nothing.py
verify arguments.py
verify imports.py
verify static
verify --all v2
verify v2 --trial no-such
verify v2 --cpus 0
verify v2 --cpus x
verify v2 --cpus 99
verify v2 --cpus 1+1+1+1+1
verify --cpus
verify v2 --cpus 2+
verify v2 --granularity fine
verify v2 --cpus 2 --pairs x
verify v2 --cpus 2 --failures -1
verify v2 --cpus 2 --failures 99
verify v2 --cpus 2 --max-states 0
verify v2 --cpus 2 --max-states many
verify v2 --cpus 2 --max-memory 5
verify v2 --cpus 2 --max-memory 1KiB
verify v2 --cpus 2 --jobs 0
verify v2 --cpus 2 --jobs x
verify v2 --cpus 2 --property no-such.py
verify v2 --cpus 2 --property folder
verify v2 --cpus 2 --property syntax.py
verify v2 --cpus 2 --property raises.py
verify v2 --cpus 2 --property none.prop.py
verify v2 --cpus 2 --property latin1
verify v2 --cpus 2 --property named.prop.py
verify v2 --cpus 2 --property fails.prop.py
verify --replay deep.json
verify --replay number.json
verify --check other.json
verify --replay none.json
verify --replay utf16
verify --resume zip
verify v2 --replay none.json
verify --replay none.json --check none.json
verify v2 --cpus 2 --checkpoint c --jobs 2
verify v2 v6 --checkpoint c
verify v2 --cpus 2 --save
verify v2 --cpus 2 --save folder
verify --no-such
verify v2 --cpus 2 --save no/such/file
verify v2 --cpus 2 --html text
plan
plan no-such
plan folder
plan binary
plan empty
plan text
plan utf16
plan zeros
plan 1KiB
plan 1PiB
plan 0GiB
plan 5
plan 1.00001GiB
plan 1GiB,nodes=99
plan 1GiB,nodes=2,nodes=2
plan reserved.e820
plan backwards.e820
plan root.iomem
plan 1GiB --td
plan 1GiB --td x
plan 1GiB --td 0x1GiB
plan 1GiB --td 1x1MiB
plan 1GiB --td 1x0GiB
plan 1GiB --td 1x64MiB/0vcpu
plan 1GiB --td 1x64MiB@2M=101%
plan 1GiB --td 1x64MiB@4M=5%
plan 1GiB --td 1x9TiB
plan 1GiB --td 1x64MiB/99999vcpu
plan 1GiB --release 9
plan 1GiB --html
plan 1GiB --td 1x64MiB --age x
plan 1GiB --td 1x64MiB --age 0
plan 1GiB --td 1x64MiB --age nan
plan 1GiB --td 1x64MiB --age 1 --seeds 0
plan 1GiB --td 1x64MiB --age 1 --seed -1
plan 1GiB --td 1x64MiB --age 9999
plan 1GiB --td 1x64MiB --age 1 --pair-pages x
plan 1GiB --html folder
plan 1GiB --td 1x64MiB --age 1 --jobs 0
plan 1GiB --html text
plan 1GiB --fleet
plan 1GiB --fleet no-such
plan 1GiB --fleet folder
plan 1GiB --fleet empty
plan 1GiB --fleet binary
plan 1GiB --fleet text
plan 1GiB --fleet vms.csv
plan 0*1GiB --fleet generated
plan 1GiB --fleet latin1
plan 1GiB --fleet generated --share-2m 101
plan 1GiB --fleet generated --max-tds 0
plan 1GiB --fleet generated --share-2m nan
plan 1GiB --fleet generated --jobs x
plan 1GiB --fleet generated --out text
plan no-such --fleet generated
plan 1GiB --fleet vms.csv --age 1
plan 1GiB --no-such
conform
conform no-such
conform folder
conform empty
conform binary
conform text
conform lines.jsonl
conform array.jsonl
conform wrong.jsonl
conform utf16
conform --release 9 text
conform --release
conform --no-such
conform latin1
decode 0x
decode 0xg
decode -1
decode 1.5
decode no-such-name
decode TDH.NO.SUCH
decode 0x11111111111111111
decode 99999999999999999999999
decode --as x 1
decode --as leaf TDX_SUCCESS
decode --as
decode --no-such
boot
boot --vmlinux
boot --vmlinux no-such
boot --vmlinux folder
boot --vmlinux empty
boot --vmlinux text
boot --vmlinux elf
boot --vmlinux binary
boot --vmlinux zip
boot --vmlinux elf --smp 0
boot --vmlinux elf --smp x
boot --vmlinux elf --smp 99
boot --vmlinux elf --memory 5
boot --vmlinux elf --memory 16MiB
boot --vmlinux elf --numa 0
boot --vmlinux elf --timeout 0
boot --vmlinux elf --pamt x
boot --vmlinux elf --timeout nan
boot --vmlinux elf --release 9
boot --vmlinux elf --initrd no-such
boot --vmlinux elf --exercise fly
boot --vmlinux elf --inject x
boot --vmlinux elf --hold x
boot --no-such
boot --vmlinux elf --replay no-such
boot --vmlinux elf --replay text
boot --vmlinux elf --replay none.json
boot --vmlinux elf --transport pigeon
boot --vmlinux elf --record folder
boot --vmlinux elf --record text
list
list nothing
list designs leaves
list --no-such
fly
--fly
expect --case 99
expect --case x
expect --case 1 --td 1x1GiB
expect --unit 5
expect --case 1 --unit 5
expect --case 1 --in-use 101%
expect --case 1 --host no-such
expect --case 1 --release 9
expect --case 1 --no-such
trace no-such
trace folder
trace empty
trace binary
trace text --html folder
trace text --perfetto text
trace --no-such
"""
"""One a line."""

DOCUMENTS = ("no-such", "folder", "empty", "binary", "text", "half.json", "list.json")

TABLE = [
    *COMMANDS.split("\n")[1:-1],
    *(f"run {name}" for name in FILES if name.endswith(".toml")),
    *(
        f"verify --{option} {name}"
        for option in ("replay", "check", "resume")
        for name in DOCUMENTS
    ),
]


def written(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("bad"))


def left(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 150


@pytest.mark.parametrize("command", TABLE)
def test_bad_input_is_one_line_and_2(command: str, folder: Path) -> None:
    before = left(folder)
    line = refused(*command.split(" "), cwd=folder)
    assert "Traceback" not in line
    assert "internal error" not in line
    assert len(line) < 1000
    assert left(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "gr\udcfc\udcdfe.toml"),
        ("plan", "\udcff"),
        ("decode", "\udc80"),
        ("verify", "./\udcff.py"),
        ("conform", "ünïcode"),
        ("plan", "1GiB", "--html", "no/\udcff"),
        ("run", "x" * 300),
        ("verify", "v2", "--save", "x" * 300),
        ("plan", "\n"),
        ("decode", "\x1b[31m"),
        ("run", ""),
        ("plan", ""),
        ("verify", ""),
        ("conform", ""),
        ("decode", ""),
        ("plan", "1GiB", "--html", ""),
    ],
    ids=range(16),
)
def test_names_of_any_bytes_are_refused_in_one_line(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    line = refused(*arguments, cwd=tmp_path)
    assert "internal error" not in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield written(Path(name))


UNREADABLE = [
    "run key.toml",
    "run --host e820",
    "run --design nothing.py",
    "verify ./nothing.py",
    "verify v2 --cpus 2 --property none.prop.py",
    "verify --replay none.json",
    "verify --resume zip",
    "plan e820",
    "conform lines.jsonl",
    "boot --vmlinux elf",
]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("command", UNREADABLE)
def test_a_file_that_may_not_be_read_is_one_line_and_2(command: str, elsewhere: Path) -> None:
    dpamt(*command.split(" "), cwd=elsewhere)  # so that all is imported
    for file in elsewhere.iterdir():
        file.chmod(0o700 if file.is_dir() else 0o600)
    ended = dpamt_as_another(*command.split(" "), cwd=elsewhere)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
    assert "ermission denied" in ended.err
