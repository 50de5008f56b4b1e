"""The one table of what a scenario may say: `check.py` checks by it, the reference is made of it.

``python -m dpamt.run.schema > docs/scenario.md`` writes the reference (see ``schema_text.py``).
"""

from dataclasses import dataclass
from typing import Any, Final

from dpamt.abi.pages import PAGE_SIZE, SIZE_2M
from dpamt.module.releases import RELEASES

REQUIRED: Final = object()
"""Default of a field that has none."""

GIB: Final = 1 << 30
TIB: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Field:
    """One key of one table of a scenario.

    ``kind``: text, name, integer, size (bytes, or a string such as "4GiB"), share (0 to 1), choice,
    flag, texts (an array) or tables.  ``low`` and ``high`` limit numbers, both included; a size is
    a multiple of ``step`` bytes.  ``default_text`` is how the reference words a computed default.
    """

    table: str
    name: str
    kind: str
    default: Any
    meaning: str
    low: int | float | None = None
    high: int | float | None = None
    choices: tuple[str, ...] = ()
    step: int = PAGE_SIZE
    default_text: str = ""


TABLES: Final = {
    "": "The scenario itself: keys at the top of the file.",
    "host": "`[host]`: the machine, its TDX module and how its kernel behaves.",
    "side": "`[[side]]`: one world to run; all sides run the same phases on machines alike, side "
    "by side.  Without any: `static`, and `dynamic` with the design `merged`.",
    "td": "`[[td]]`: a group of TDs that are alike.",
    "phase": "`[[phase]]`: what happens, in this order; the run takes stock at the end of each.",
    "step": "`steps` of a phase: inline tables, done one after another.",
}

STEP_NAMES: Final = ("build", "fault", "convert", "balloon", "split", "shutdown", "crash")

FIELDS: Final = (
    Field("", "title", "text", "", "What the report is headed with.", default_text="file name"),
    Field("", "seed", "integer", 0, "Seed of everything the guests choose.", 0, 2**63 - 1),
    Field("", "host", "tables", {}, "The machine.", default_text="all defaults"),
    Field("", "side", "tables", [], "The sides.", default_text="static and dynamic"),
    Field("", "td", "tables", [], "The groups of TDs.", default_text="none"),
    Field("", "phase", "tables", [], "The phases.", default_text="none"),
    Field(
        "host",
        "machine",
        "text",
        "host-1tib",
        "A host that comes with dpamt (`host-1tib`, `reserved-areas`, `module-too-old`), a file "
        "(dmesg, /proc/iomem or e820 text; relative to the scenario), or a size (`64GiB`).",
    ),
    Field(
        "host",
        "nodes",
        "integer",
        None,
        "NUMA nodes; only with a size.",
        1,
        64,
        default_text="1, above 512 GiB 2",
    ),
    Field(
        "host",
        "packages",
        "integer",
        None,
        "Packages (sockets) of the machine; each has a key of its own to configure.",
        1,
        64,
        default_text="1, with a size 1 a node",
    ),
    Field(
        "host",
        "cpus",
        "integer",
        None,
        "Logical processors of the machine.",
        1,
        1024,
        default_text="4 a package",
    ),
    Field(
        "host",
        "fragmentation",
        "share",
        0.0,
        "Share of 2 MiB blocks that one kernel page spoils, so that no 2M page fits there.",
        0,
        1,
    ),
    Field(
        "host",
        "fragmented",
        "choice",
        "after-boot",
        "When `fragmentation` happens: once the module is up, as on a host that has run for a "
        "while (Linux initialises TDX at boot, on fresh memory), or before, so that PAMT may find "
        "no contiguous memory.",
        choices=("after-boot", "at-boot"),
    ),
    Field(
        "host",
        "seed",
        "integer",
        None,
        "Seed of the fragmentation.",
        0,
        2**63 - 1,
        default_text="the scenario's",
    ),
    Field(
        "host",
        "module",
        "choice",
        "2.0.18",
        "Release of the TDX module.",
        choices=tuple(RELEASES),
    ),
    Field(
        "host",
        "module_dynamic_pamt",
        "flag",
        None,
        "Whether the module offers Dynamic PAMT (TDX_FEATURES0 bit 36).",
        default_text="as the release does",
    ),
    Field(
        "host",
        "max_pa_bits",
        "integer",
        None,
        "Bits of a physical address, those of the KeyID included.",
        36,
        52,
        default_text="the machine's (52)",
    ),
    Field(
        "host",
        "keyid_bits",
        "integer",
        None,
        "Bits of the KeyID.  When given, the upper half of the KeyIDs is TDX's: the first of them "
        "for the module, one of the others for each TD.",
        2,
        15,
        default_text="the machine's (6)",
    ),
    Field(
        "host",
        "tdmr_holes",
        "choice",
        "memory-blocks",
        "Where the kernel looks for the holes of a TDMR: between its memory blocks (Linux 7.3.4) "
        "or between CMRs (patch of 2024).",
        choices=("memory-blocks", "cmrs"),
    ),
    Field(
        "host",
        "dynamic_pamt_check",
        "choice",
        "feature-bit",
        "What the kernel asks before it uses Dynamic PAMT: the module's feature bit (merged), or "
        "also that physical addresses fit its 48 bits (v6).",
        choices=("feature-bit", "feature-bit-and-pa-width"),
    ),
    Field(
        "host",
        "inject",
        "texts",
        [],
        "SEAMCALLs that meet a held lock, no entropy, an interrupt or a failing key engine, on "
        "every side: rules such as `TDH.MEM.PAGE.AUG:busy=SEPT_TREE:every=100` "
        "([all of it](injection.md)).",
        default_text="none",
    ),
    Field("side", "name", "name", REQUIRED, "Its name in tables; each side has another one."),
    Field(
        "side",
        "pamt",
        "choice",
        "dynamic",
        "`static`, `dynamic` (an error where it cannot be had), or `auto`: dynamic where module "
        "and kernel allow it, else static, as Linux does.",
        choices=("static", "dynamic", "auto"),
    ),
    Field(
        "side",
        "design",
        "text",
        None,
        "The kernel's design for Dynamic PAMT: `merged`, another [of those that come with "
        "dpamt](how-dynamic-pamt-works.md#designs), or a Python file of yours (relative to the "
        "scenario; contract in `dpamt/host/designs/base.py`).",
        default_text="`static` for static PAMT, else `merged`",
    ),
    Field("td", "name", "name", REQUIRED, "Name of the group; each group has another one."),
    Field("td", "count", "integer", 1, "TDs in the group.", 1, 4096),
    Field("td", "memory", "size", REQUIRED, "Memory of each TD.", SIZE_2M, 64 * TIB, step=SIZE_2M),
    Field("td", "vcpus", "integer", 1, "VCPUs of each TD.", 1, 512),
    Field(
        "td",
        "share_2m",
        "share",
        1.0,
        "Share of the 2M ranges of its memory that the guest accepts at 2M; it accepts the rest "
        "page by page.",
        0,
        1,
    ),
    Field(
        "td",
        "faulted",
        "share",
        1.0,
        "Share of its memory that a `fault` step brings into use, image included, unless the step "
        "says otherwise.",
        0,
        1,
    ),
    Field(
        "td",
        "image",
        "size",
        2 << 20,
        "Memory filled and measured at build time, 4K page by 4K page.",
        PAGE_SIZE,
        4 * GIB,
    ),
    Field("phase", "name", "text", REQUIRED, "Its name in tables."),
    Field("phase", "steps", "tables", [], "What happens in it.", default_text="nothing"),
    Field(
        "step",
        "do",
        "choice",
        REQUIRED,
        "What happens; see the list below.",
        choices=STEP_NAMES,
    ),
    Field(
        "step",
        "td",
        "text",
        "all",
        "The group that does it, or `all`: each group in turn.",
    ),
    Field(
        "step",
        "count",
        "integer",
        None,
        "How many TDs of the group do it: of those alive, the oldest first; for `build`, how many "
        "more.",
        1,
        4096,
        default_text="all",
    ),
    Field(
        "step",
        "share",
        "share",
        None,
        "A share of the TD's memory.  `fault`: of all its memory; this share is in use afterwards. "
        " `convert` and `balloon`: of the memory in use beyond the image.  `split`: of its 2M "
        "pages.",
        0,
        1,
        default_text="`fault`: the group's `faulted`; else 1",
    ),
    Field("step", "times", "integer", 1, "How often it is done.", 1, 1000),
    Field(
        "step",
        "chunk",
        "size",
        SIZE_2M,
        "For `convert`: bytes converted at once.  Chunks below 2MiB split 2M pages.",
        PAGE_SIZE,
        SIZE_2M,
    ),
)
"""Everything a scenario may say.  A file is refused for any other key."""

STEPS: Final = {
    "build": "TDs are created, their VCPUs too; the image is added (PAGE.ADD) and measured "
    "(MR.EXTEND); the TD is made runnable.",
    "fault": "The guest accepts memory from low to high addresses; each access to memory that is "
    "not there exits to the host, which maps a page (PAGE.AUG).",
    "convert": "The guest turns memory from private to shared and back (MapGPA) and accepts it "
    "again.",
    "balloon": "The guest gives memory back, the host punches it out of guest_memfd; later the "
    "guest takes it again.",
    "split": "The guest shares one 4K page in a 2M page for a moment: the host splits the 2M page "
    "(PAGE.DEMOTE) and it stays split.",
    "shutdown": "The TD is torn down in order, all its pages are reclaimed.",
    "crash": "The process that owns the TD dies; the kernel tears the TD down.",
}
"""What each step does."""
