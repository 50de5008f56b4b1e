"""``make test-kernel``: a Linux kernel for the tests, from Debian's source package, built once.

    python -m tests.boot.kernel.build [kasan|kcsan]

prints the folder of the build, or says why there can be none and exits 1.  It is kept in the user's
cache by source version and configuration, the sanitizer's fragment included.  Kernels with Dynamic
PAMT are built beside it (``patches/``), each from a copy of the build before: ``build-dynamic``
and, without a sanitizer, ``build-v2``.  Each has a source of its own (hard links where nothing
differs): a module is built against the headers of its kernel.  They are ``source``,
``source-dynamic`` and ``source-v2``.  KVM's modules are built with the first of VARIANTS, whose
patches change KVM.

The package comes from the mirror that apt is configured for on this machine, through an apt state
of its own: the machine's is not changed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import dpamt.boot
from dpamt.cache_folder import cache_folder

PACKAGE = "linux-source-7.3"
SUITE = "trixie-backports"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
NEEDED = {
    "gcc": "gcc",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "cpio": "cpio",
    "patch": "patch",
    "xz": "xz-utils",
    "qemu-system-x86_64": "qemu-system-x86",
}
LIBRARIES = {"/usr/include/libelf.h": "libelf-dev", "/usr/include/openssl/opensslv.h": "libssl-dev"}
RECORDERS = {"/bin/busybox": "busybox-static", "/usr/bin/trace-cmd": "trace-cmd"}
"""For recorders inside the guest (inside.py): their tests are skipped without."""
GUEST = Path(dpamt.boot.__file__).parent / "guest"
SANITIZERS: dict[str, tuple[str, ...]] = {"kasan": ("KASAN_SANITIZE_string.o=n",), "kcsan": ()}
"""Each with what make is told beside its fragment (docs/boot.md says why)."""
PATCHES = Path(__file__).parent / "patches"
VARIANTS = ("dynamic", "v2")
"""Folders of patches, each on top of the one before."""
NOT_NEEDED = ("Documentation", "drivers", "fs", "net", "sound", "samples", "crypto", "rust")
"""Of the source, once the kernel is built: a module needs none of it."""


def main() -> None:
    wanted = sys.argv[1:]
    if any(name not in SANITIZERS for name in wanted):
        give_up(f"{' '.join(wanted)}: expected {' or '.join(SANITIZERS)}, or nothing")
    variables = [word for name in wanted for word in SANITIZERS[name]]
    fragments = [GUEST / f"{name}.config" for name in ("minimal", *(wanted or ["tracing"]))]
    install_tools()
    cache = cache_folder()
    with tempfile.TemporaryDirectory() as name:
        apt = Apt(Path(name))
        version = apt.version()
        configuration = b"".join(fragment.read_bytes() for fragment in fragments)
        configuration += " ".join(variables).encode()
        variants = VARIANTS[:1] if wanted else VARIANTS
        configuration += b"".join(
            patch.read_bytes() for variant in variants for patch in patches_of(variant)
        )
        key = hashlib.sha256(configuration + version.encode()).hexdigest()[:12]
        place = cache / f"kernel-{version.partition('~')[0]}-{key}"
        with alone(place):
            if not (place / "done").exists():
                say(f"building {PACKAGE} {version} in {place} (a few minutes)")
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                build(apt.fetch(), place, fragments, variables, variants)
                (place / "done").touch()
    print(place / "build")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def give_up(text: str) -> NoReturn:
    say(f"NO KERNEL TO TEST WITH: {text}")
    raise SystemExit(1)


def run(*words: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run(words, cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode:
        give_up(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout)[-1500:]}")
    return done.stdout


def install_tools() -> None:
    missing = [package for tool, package in NEEDED.items() if shutil.which(tool) is None]
    missing += [package for file, package in LIBRARIES.items() if not Path(file).exists()]
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        missing += [package for file, package in RECORDERS.items() if not Path(file).exists()]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        give_up(f"not installed: {', '.join(missing)}")
    say(f"installing {', '.join(missing)}")
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


class Apt:
    """apt with lists of its own in ``folder``."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("apt-get") is None:
            give_up("no apt-get on this machine")
        self._folder = folder
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        source = folder / "sources.list"
        source.write_text(f"deb [signed-by={KEYRING}] {mirror()} {SUITE} main\n")
        options = {
            "Dir::Etc::sourcelist": source,
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferencesparts": "-",
            "Dir::State::lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "root",
        }
        self._options = [f"-o{name}={value}" for name, value in options.items()]
        run("apt-get", *self._options, "update", "-qq")

    def version(self) -> str:
        said = run("apt-cache", *self._options, "madison", PACKAGE)
        versions = [line.split("|")[1].strip() for line in said.splitlines() if SUITE in line]
        if not versions:
            give_up(f"no {PACKAGE} in {SUITE} of {mirror()}")
        return versions[0]

    def fetch(self) -> Path:
        run("apt-get", *self._options, "download", "-qq", PACKAGE, folder=self._folder)
        (package,) = self._folder.glob("*.deb")
        run("dpkg-deb", "-x", package, self._folder / "package")
        (tar,) = (self._folder / "package").rglob("linux-source-*.tar.xz")
        return tar


def mirror() -> str:
    """The first repository of Debian's that this machine's apt knows."""
    said = run(
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"
    )
    found = [line.split()[1] for line in said.splitlines() if line.startswith("Debian ")]
    found = [uri for uri in found if "security" not in uri]
    if not found:
        give_up("apt has no list of a Debian mirror (apt-get update)")
    return found[0]


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Two runs at once build one kernel: the second waits and finds it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that builds {place}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def patches_of(variant: str) -> list[Path]:
    return sorted((PATCHES / variant).glob("*.patch"))


def build(
    tar: Path,
    place: Path,
    fragments: list[Path],
    variables: list[str],
    variants: tuple[str, ...],
) -> None:
    source, target = place / "source", place / "build"
    source.mkdir()
    run("tar", "-xf", tar, "-C", source, "--strip-components=1")
    make: list[str | Path] = ["make", "-s", "-C", source, *variables, f"O={target}"]
    run(*make, "tinyconfig")
    merge = source / "scripts/kconfig/merge_config.sh"
    run(merge, "-m", "-O", target, target / ".config", *fragments, folder=source)
    run(*make, "olddefconfig")
    jobs = f"-j{len(os.sched_getaffinity(0)) + 1}"
    run(*make, jobs, "vmlinux", "modules_prepare")
    sources = {target: keep(source, "source-static")}
    for variant in variants:
        before, target = target, place / f"build-{variant}"
        say(f"the same with patches/{variant}")
        run("cp", "-a", before, target)
        for patch in patches_of(variant):
            run("patch", "-p1", "-s", "-d", source, "-i", patch)
        make[-1] = f"O={target}"
        run(*make, jobs, "vmlinux", "modules_prepare")
        if variant == variants[0]:
            run(*make, jobs, "modules")
        sources[target] = keep(source, f"source-{variant}")
    shutil.rmtree(source)
    (place / "source-static").rename(source)
    sources[place / "build"] = source
    for target, own in sources.items():
        point(target, source, own)
        for folder, names in ((own, NOT_NEEDED), (target, ("drivers", "fs", "net"))):
            for name in names:
                shutil.rmtree(folder / name, ignore_errors=True)


def keep(source: Path, name: str) -> Path:
    """The source as it is now, under another name.  patch(1) makes a new file of each that it
    changes, so what is linked here stays."""
    kept = source.with_name(name)
    run("cp", "-al", source, kept)
    return kept


def point(target: Path, source: Path, own: Path) -> None:
    """Let a build take its headers from ``own`` in place of the ``source`` it was made from."""
    makefile = target / "Makefile"
    makefile.write_text(makefile.read_text().replace(f"{source}/Makefile", f"{own}/Makefile"))
    (target / "source").unlink(missing_ok=True)
    (target / "source").symlink_to(own)


if __name__ == "__main__":
    main()
