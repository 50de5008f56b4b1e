"""The sdist and the wheel, the same bytes whenever they are made: ``dist.py FOLDER [SOURCES]``.

`build` makes the sdist, and the wheel from it.  setuptools takes dates and owners of the files into
the sdist; here they become those of SOURCE_DATE_EPOCH (reproducible-builds.org), or of 2026-01-01.
"""

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import dpamt

ROOT: Final = Path(__file__).parents[1]
EPOCH: Final = 1767225600


def main(arguments: list[str]) -> None:
    """Make both in a folder; print their names."""
    folder = Path(arguments[0])
    source = Path(arguments[1]) if len(arguments) > 1 else ROOT
    check_tag(_git(source, "tag", "--points-at", "HEAD"))
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(source)],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    for archive in folder.glob("*.tar.gz"):
        archive.write_bytes(normal(archive.read_bytes(), epoch))
    for made in sorted(folder.iterdir()):
        print(made)


def check_tag(tags: str) -> None:
    """Leave with a line when the commit has a version's tag, and it is another version's."""
    versions = [tag for tag in tags.split() if re.fullmatch(r"v\d+(\.\d+)+\w*", tag)]
    if versions and f"v{dpamt.__version__}" not in versions:
        raise SystemExit(f"dist: tag {versions[0]}; expected v{dpamt.__version__}")


def _git(source: Path, *arguments: str) -> str:
    """What git says; nothing where there is no git, or no repository."""
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(
        ["git", "-C", str(source), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout


def normal(archive: bytes, epoch: int) -> bytes:
    """A .tar.gz with its members in order, all of one date and of nobody's."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as old,
        gzip.GzipFile("", "wb", 9, packed, mtime=epoch) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return packed.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:])
