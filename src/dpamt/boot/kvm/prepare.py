"""Everything of `dpamt boot --kvm` that is ready before the guest starts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dpamt.boot.interventions import Change
from dpamt.boot.kvm.allocations import check_kernel
from dpamt.boot.kvm.module_file import FileChange, ModuleFile
from dpamt.boot.kvm.modules import NAMES, build_modules, modules_in
from dpamt.boot.kvm.script import Script
from dpamt.boot.kvm.selftests import Checks
from dpamt.boot.kvm.vmm import build_vmm
from dpamt.boot.kvm.vmx_sites import vmx_sites
from dpamt.boot.stub import STUB_BYTES
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage

_INTEL: Final = NAMES[-1]
_STUB_STEP: Final = STUB_BYTES + (-STUB_BYTES) % 16


@dataclass(frozen=True, slots=True)
class KvmOptions:
    """What KVM is to be run with: ``modules`` is a folder with its modules, else ``build`` the tree
    to build them from."""

    script: Script
    modules: Path | None = None
    build: Path | None = None
    sweep: tuple[str, ...] = ()
    """How SEAMCALLs of a TD's life fail in turn (:mod:`dpamt.boot.kvm.sweep_words`); empty: none
    does."""
    allocations: int = 0
    """Each so-and-so-many-th allocation of a TD's life fails in turn; 0: none does."""
    checks: Checks | None = None
    """What the script has to come to, where it is that of checks."""
    coverage: bool = False
    """Whether to tell which lines of KVM's TDX code ran."""


@dataclass(slots=True)
class PreparedKvm:
    """The guest's files, and what was changed where."""

    kernel_change: Change
    intel: Path
    """kvm-intel.ko as it was built."""
    modules: dict[str, Path] = field(default_factory=dict)
    """All three as they were built, by name."""
    files: dict[str, bytes] = field(default_factory=dict)
    module_changes: list[FileChange] = field(default_factory=list)


def prepare_kvm(
    options: KvmOptions, image: KernelImage, changes: list[Change], folder: Path
) -> PreparedKvm:
    """Find or build the modules, change a copy of kvm-intel.ko, build the VMM.

    ``changes`` are those of the kernel so far: the code that kvm-intel.ko calls goes behind them.
    Raises InputError for what cannot be had or changed.
    """
    if options.modules is not None:
        paths = modules_in(options.modules)
    else:
        paths = build_modules(options.build or image.path.parent, options.coverage)
    if options.allocations:
        check_kernel(image)
    address = _free(image, changes)
    module = ModuleFile(paths[_INTEL])
    sites = vmx_sites(module, address)
    start, room = image.slack_after_text()
    if address + len(sites.code) > start + room:
        raise InputError(
            f"{image.path}: {start + room - address} bytes are free behind _etext; expected "
            f"{len(sites.code)} for the VMX capabilities"
        )
    old = image.read(address, len(sites.code))
    why = "values of the VMX capabilities, for kvm-intel.ko"
    change = Change(address, old, sites.code, "behind _etext", why)
    prepared = PreparedKvm(change, paths[_INTEL], paths, module_changes=sites.changes)
    prepared.files = {name: path.read_bytes() for name, path in paths.items()}
    prepared.files[_INTEL] = module.with_changes(sites.changes)
    prepared.files["init"] = build_vmm(folder)
    prepared.files["script"] = options.script.text.encode()
    return prepared


def _free(image: KernelImage, changes: list[Change]) -> int:
    """The first address behind the kernel's text that nothing is put at yet."""
    start, room = image.slack_after_text()
    used = [c.address + len(c.new) for c in changes if start <= c.address < start + room]
    end = max(used, default=start)
    return end + (-end) % 16
