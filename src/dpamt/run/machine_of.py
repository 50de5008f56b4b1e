"""From a scenario's `[host]` to the machine, module release and kernel behaviour it names."""

from dataclasses import replace

from dpamt.abi.metadata import TDX_FEATURES0_DYNAMIC_PAMT
from dpamt.errors import InputError
from dpamt.host.core.kernel import KernelBehaviour
from dpamt.module.releases import Release, release_named
from dpamt.platform.machine import Machine, Topology
from dpamt.platform.read_machine import PACKAGED_HOSTS, packaged_host, read_machine
from dpamt.platform.size import looks_like_size, machine_from_size
from dpamt.run.scenario import HostSpec, Scenario


def machine_of(scenario: Scenario) -> Machine:
    """The machine.  Raises InputError, naming the scenario's line if the host came from there."""
    spec = scenario.host
    try:
        return _with_changes(spec, _read(spec))
    except InputError as error:
        where = scenario.place("host.machine")
        raise InputError(f"{where}: {error}" if where else str(error)) from None


def release_of(spec: HostSpec) -> Release:
    """The module's release, with Dynamic PAMT offered or not as the scenario says."""
    release = release_named(spec.module)
    if spec.module_dynamic_pamt is None:
        return release
    features = release.features0 & ~TDX_FEATURES0_DYNAMIC_PAMT
    if spec.module_dynamic_pamt:
        features |= TDX_FEATURES0_DYNAMIC_PAMT
    return replace(release, features0=features)


def behaviour_of(spec: HostSpec) -> KernelBehaviour:
    """How the kernel behaves besides the design."""
    return KernelBehaviour(tdmr_holes=spec.tdmr_holes, dynamic_pamt_check=spec.dynamic_pamt_check)


def _read(spec: HostSpec) -> Machine:
    if spec.machine in PACKAGED_HOSTS:
        machine = packaged_host(spec.machine)
    elif spec.nodes is not None and looks_like_size(spec.machine):
        return machine_from_size(spec.machine, nodes=spec.nodes)
    else:
        machine = read_machine(spec.machine)
    if spec.nodes is not None:
        raise InputError(f"{spec.machine}: nodes; expected only with a size")
    return machine


def _with_changes(spec: HostSpec, machine: Machine) -> Machine:
    topology = machine.topology
    packages = topology.packages if spec.packages is None else spec.packages
    per_package = -(-topology.cpus // topology.packages)
    cpus = packages * per_package if spec.cpus is None else spec.cpus
    topology = Topology(packages, cpus)
    keyids = machine.private_keyids
    if spec.keyid_bits is not None:
        keyids = (1 << spec.keyid_bits - 1, 1 << spec.keyid_bits)
    return replace(
        machine,
        topology=topology,
        max_pa_bits=machine.max_pa_bits if spec.max_pa_bits is None else spec.max_pa_bits,
        keyid_bits=machine.keyid_bits if spec.keyid_bits is None else spec.keyid_bits,
        private_keyids=keyids,
    )
