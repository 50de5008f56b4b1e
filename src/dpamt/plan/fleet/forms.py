"""Which columns a file of VM lives has: our own, and those of public traces, with or without names.

- Own: a row for each VM, names in the first line, in any order.
- Azure: the vmtable, a row for each VM, without names as distributed.  Source:
  Azure/AzurePublicDataset, AzurePublicDatasetV1.md and AzurePublicDatasetV2.md.
- Huawei: a row for each creation (type 0) and deletion (type 1).  Source: mail-ecnu/VMAgent,
  docs/source/simulator/dataset.rst, the trace Huawei-East-1.
- Alibaba 2017: a row for each Create and Remove, without names; memory is a share of a machine's.
  Source: alibaba/clusterdata, cluster-trace-v2017/trace_201708.md, container_event.csv.
- Alibaba 2018: rows for each container, whose status changes, without names; memory is in percent
  of a machine's, 100 CPUs are one core.  Source: cluster-trace-v2018/schema.md, container_meta.csv.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dpamt.errors import InputError

OWN: Final = {
    name: name
    for name in (
        *("arrival", "departure", "memory_gib", "vcpus"),
        *("host_type", "share_2m", "td", "vmid"),
    )
}
REQUIRED: Final = ("arrival", "departure", "memory_gib", "vcpus")
AZURE_NAMES: Final = (
    *("vmid", "subscriptionid", "deploymentid", "vmcreated", "vmdeleted"),
    *("maxcpu", "avgcpu", "p95maxcpu", "vmcategory", "vmcorecount", "vmmemory"),
)
"""Columns of the vmtable, in their order."""
AZURE: Final = {
    "arrival": "vmcreated",
    "departure": "vmdeleted",
    "memory_gib": "vmmemory",
    "vcpus": "vmcorecount",
    "vmid": "vmid",
}
AZURE_OPEN_BUCKETS: Final = {"vcpus": (">24", "32"), "memory_gib": (">64", "128")}
"""The last bucket of the 2019 trace has no upper end: what such a VM is taken for."""

_NUMBER: Final = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


def is_number(text: str) -> bool:
    """Whether a field of a CSV file is a number."""
    return _NUMBER.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class EventForm:
    """A trace that has a row for each event: columns by name in their order, and what they mean.

    ``begins`` and ``ends`` are values of the column ``kind``; rows with other values say nothing.
    A VM has ``cpus_per_vcpu`` of the column ``cpus`` for each VCPU.  Memory is in GiB, or, where
    ``machine`` is given, ``machine`` stands for all of a machine's memory.
    """

    name: str
    columns: tuple[str, ...]
    vmid: str
    time: str
    kind: str
    cpus: str
    memory: str
    begins: frozenset[str]
    ends: frozenset[str]
    cpus_per_vcpu: float = 1.0
    machine: float | None = None
    repeats: bool = False
    """Whether a VM that runs has further rows that say so."""

    @property
    def fields(self) -> dict[str, str]:
        """What it is for us to the name of its column."""
        return {name: getattr(self, name) for name in ("vmid", "time", "kind", "cpus", "memory")}

    def is_row(self, fields: Sequence[str]) -> bool:
        """Whether a line without names is a row of this trace."""
        if len(fields) != len(self.columns):
            return False
        row = dict(zip(self.columns, fields, strict=True))
        known = self.begins | self.ends | _SAID_OF_CONTAINERS
        return row[self.kind] in known and all(
            is_number(row[name]) for name in (self.time, self.cpus, self.memory) if row[name]
        )


_SAID_OF_CONTAINERS: Final = frozenset({"unknown"})
"""Statuses of containers that neither begin nor end one."""

EVENT_FORMS: Final = (
    EventForm(
        "Huawei's trace",
        ("vmid", "cpu", "memory", "time", "type"),
        "vmid", "time", "type", "cpu", "memory",
        frozenset({"0"}), frozenset({"1"}),
    ),
    EventForm(
        "Alibaba's trace of 2017",
        ("ts", "event", "instance_id", "machine_id", "plan_cpu", "plan_mem", "plan_disk", "cpuset"),
        "instance_id", "ts", "event", "plan_cpu", "plan_mem",
        frozenset({"Create"}), frozenset({"Remove"}), machine=1.0,
    ),
    EventForm(
        "Alibaba's trace of 2018",
        (
            *("container_id", "machine_id", "time_stamp", "app_du"),
            *("status", "cpu_request", "cpu_limit", "mem_size"),
        ),
        "container_id", "time_stamp", "status", "cpu_request", "mem_size",
        frozenset({"started", "allocated"}), frozenset({"stopped"}),
        cpus_per_vcpu=100.0, machine=100.0, repeats=True,
    ),
)  # fmt: skip


def event_form(fields: Sequence[str]) -> tuple[EventForm, bool] | None:
    """The trace of events that the first line belongs to, and whether that line is names."""
    lower = {name.lower() for name in fields}
    for form in EVENT_FORMS:
        if lower >= set(form.fields.values()):
            return form, True
        if form.is_row(fields):
            return form, False
    return None


def is_azure_row(fields: Sequence[str]) -> bool:
    """Whether a line without names is one of the vmtable."""
    return len(fields) == len(AZURE_NAMES) and all(is_number(fields[at]) for at in (3, 4, 5, 6, 7))


def names_of(path: Path, found: Sequence[str]) -> dict[str, str]:
    """Which column of a file of lives is which of ours.  Raises InputError for one that lacks."""
    plain = {re.sub(r"[^a-z0-9]|bucket", "", name.lower()): name for name in found}
    azure = "vmcreated" in plain
    if azure:
        chosen = {ours: plain.get(name, "") for ours, name in AZURE.items()}
    else:
        lower = {name.strip().lower(): name for name in found}
        chosen = {ours: lower[name] for ours, name in OWN.items() if name in lower}
    for ours in REQUIRED:
        if not chosen.get(ours):
            expected = AZURE[ours] if azure else ours
            raise InputError(
                f"{path}, line 1: no column {expected}; expected {', '.join(REQUIRED)} "
                "(or a trace of Azure, Huawei or Alibaba), found " + ", ".join(found)[:200]
            )
    return {ours: name for ours, name in chosen.items() if name}


def event_names(form: EventForm, found: Sequence[str]) -> Mapping[str, str]:
    """What it is for us to the name of the column in this file."""
    lower = {name.lower(): name for name in found}
    return {ours: lower[name] for ours, name in form.fields.items()}
