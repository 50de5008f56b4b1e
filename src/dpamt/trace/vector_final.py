"""The metadata that a scenario leaves behind, read from the module and held against the record."""

from typing import Any, Final

from dpamt.abi.leaves import TDH_PHYMEM_PAGE_RDMD
from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    LEVEL_SHIFTS,
    PAGE_SHIFT,
    PAGE_TYPE_NAMES,
    PT_EPT,
    PT_PAMT,
    PT_REG,
    SIZE_4K,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.module import TdxModule
from dpamt.module.pamt import OWNER_SHIFT, TYPE_MASK
from dpamt.module.td import (
    HEADER_LIFECYCLE_MASK,
    HEADER_LIFECYCLE_SHIFT,
    HEADER_TDCX_MASK,
    HEADER_TDCX_SHIFT,
)
from dpamt.module.view import ModuleView
from dpamt.trace.vector_file import Json, number

_LEVEL_NAMES: Final = ("4K", "2M", "1G")
_LIFECYCLES: Final = ("HKID_ASSIGNED", "KEYS_CONFIGURED", "BLOCKED", "TEARDOWN")
_BEPOCH_TYPES: Final = (PT_REG, PT_EPT)
_RDMD_REGISTERS: Final = ("rcx", "rdx", "r8", "r9", "r10", "r11")

Entry = dict[str, int | str]
Entries = dict[tuple[str, int], Entry]


def compare_metadata(module: TdxModule, final: Json) -> list[str]:
    """Differences in PAMT entries, bitmap and TDs, a sentence each; locks may still be held."""
    found: list[str] = []
    if "entries" in final:
        found += _differences("PAMT entry", _recorded_entries(final["entries"]), _entries(module))
    if "bitmap" in final:
        recorded = {
            number(hpa, "bitmap") + index * SIZE_4K
            for hpa, pages in final["bitmap"]
            for index in range(pages)
        }
        marked = {page << PAGE_SHIFT for page in ModuleView(module).pamt_pages()}
        for hpa in sorted(recorded ^ marked):
            found.append(f"bitmap bit of {hpa:#x}: recorded {hpa in recorded}, is {hpa in marked}")
    if "tds" in final:
        found += _differences("TD", _recorded_tds(final["tds"]), _tds(module))
    return found


def compare_rdmd(module: TdxModule, final: Json) -> list[str]:
    """Differences in what RDMD answers for the recorded pages; no lock may be held."""
    found = []
    for record in final.get("pamt", []):
        place = f"RDMD of {record['page']} at {record['level']}"
        level = _LEVEL_NAMES.index(record["level"])
        size = 1 << LEVEL_SHIFTS[level]
        args = TdxModuleArgs()
        args.rcx = number(record["page"], place) & -size | level
        status = module.processor(0).seamcall(TDH_PHYMEM_PAGE_RDMD, args)
        expected = number(record.get("status", 0), place)
        if status != expected:
            found.append(f"{place}: recorded status {expected:#x}, is {status:#x}")
        for name in _RDMD_REGISTERS:
            recorded = number(record.get(name, 0), place)
            if getattr(args, name) != recorded and name not in record.get("stale", []):
                found.append(f"{place}: recorded {name} {recorded:#x}, is {getattr(args, name):#x}")
    return found


def _differences(what: str, recorded: dict[Any, Entry], present: dict[Any, Entry]) -> list[str]:
    found = []
    for key in sorted(recorded.keys() | present.keys()):
        record, entry = recorded.get(key), present.get(key)
        if record != entry:
            found.append(f"{what} {_shown_key(key)}: recorded {record}, is {entry}")
    return found


def _shown_key(key: Any) -> str:
    return f"{key[0]} {key[1]:#x}" if isinstance(key, tuple) else f"{key:#x}"


def _recorded_entries(records: list[Json]) -> Entries:
    entries: Entries = {}
    for record in records:
        fields: Entry = {
            name: value if name == "type" else number(value, "entries")
            for name, value in record.items()
            if name not in ("level", "hpa", "n")
        }
        for index in range(record.get("n", 1)):
            key = (record["level"], number(record["hpa"], "entries") + index * SIZE_4K)
            entries[key] = fields
    return entries


def _entries(module: TdxModule) -> Entries:
    """Every PAMT entry that is in use or has a non-zero lock word."""
    pamt = module.pamt
    entries: Entries = {}
    for level, words in ((LEVEL_1G, pamt.first_1g), (LEVEL_2M, pamt.first_2m)):
        for index, word in words.non_zero():
            page = index << 9 * level
            fields = _fields(module, page, level, word.load(), word.lock_word())
            entries[_LEVEL_NAMES[level], page << PAGE_SHIFT] = fields
    for region in pamt.entries_4k.pages():
        table = pamt.entries_4k.find(region)
        locks = table.locked()
        for index, entry in enumerate(table.payloads()):
            if entry or index in locks:
                page = region << 9 | index
                fields = _fields(module, page, LEVEL_4K, entry, locks.get(index, 0))
                entries["4K", page << PAGE_SHIFT] = fields
    return entries


def _fields(module: TdxModule, page: int, level: int, entry: int, lock: int) -> Entry:
    kind = entry & TYPE_MASK
    fields: Entry = {"type": PAGE_TYPE_NAMES[kind]}
    if kind == PT_PAMT:
        region = module.pamt.region(page >> 9)
        fields["hpa0"] = region.pair0.load() << PAGE_SHIFT
        fields["hpa1"] = region.pair1.load() << PAGE_SHIFT
        fields["count"] = region.count.load()
    elif entry >> OWNER_SHIFT:
        fields["owner"] = entry >> OWNER_SHIFT << PAGE_SHIFT
    if kind in _BEPOCH_TYPES:
        fields["bepoch"] = module.pamt.bepoch(page, level)
    if lock:
        fields["lock"] = lock
    return fields


def _recorded_tds(records: list[Json]) -> dict[int, Entry]:
    return {
        number(record["tdr"], "tds"): {
            name: value if name == "lifecycle" else number(value, "tds")
            for name, value in record.items()
            if name != "tdr"
        }
        for record in records
    }


def _tds(module: TdxModule) -> dict[int, Entry]:
    """Every TD; OP_STATE once it has a page of TDCS, TD_EPOCH once it is initialised."""
    tds = {}
    for page, children in ModuleView(module).tds().items():
        td = module.tds.at(page)
        header = td.header.load()
        tdcx = (header & HEADER_TDCX_MASK) >> HEADER_TDCX_SHIFT
        fields: Entry = {
            "lifecycle": _LIFECYCLES[(header & HEADER_LIFECYCLE_MASK) >> HEADER_LIFECYCLE_SHIFT],
            "num_tdcx": tdcx,
            "chldcnt": children,
        }
        if tdcx:
            fields["op_state"] = td.op_state.load()
            if td.epoch.load():
                fields["td_epoch"] = td.epoch.load()
        tds[page << PAGE_SHIFT] = fields
    return tds
