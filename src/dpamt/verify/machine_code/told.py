"""What a verdict on machine code says of it: what it rests on, and what no thread came to."""

from dpamt.verify.machine_code import answered
from dpamt.verify.machine_code.page_clear import FENCE_ASSUMED
from dpamt.verify.machine_code.places import Places
from dpamt.verify.machine_code.reach import never_ran, patched


def assumptions_of(places: Places, buffers: bool) -> list[str]:
    """What a verdict rests on, a sentence each."""
    image = places.image
    said = []
    if places.memory.presets:
        presets = ", ".join(
            f"{p.symbol}{f'+{p.offset:#x}' if p.offset else ''} = {p.value:#x}"
            for p in places.memory.presets
        )
        said.append(
            f"{image.path.name}: set before the first step, as a booted kernel has it: {presets}"
        )
    if places.memory.given:
        given = ", ".join(f"{p.symbol} = {p.value:#x}" for p in places.memory.given)
        said.append(f"given with --set, and never changed: {given}")
    called = [name for name in places.called if name not in answered.LISTS]
    if called:
        said.append(f"answered, not executed: {', '.join(sorted(called))}")
    if any(name in answered.LISTS for name in places.called):
        said.append("the checks of lists (CONFIG_LIST_HARDENED) find nothing wrong")
    if places.passed:
        said.append(f"counted as nothing, or as a jump: {', '.join(sorted(places.passed))}")
    linked = places.memory.taken_as_linked()
    if linked:
        said.append(f"as the image holds it, though a boot may write it: {', '.join(linked)}")
    first = places.memory.first_values()
    if first:
        said.append(f"shared words begin as the image holds them: {', '.join(first)}")
    inlined = places.inlined_locks()
    if inlined:
        said.append(
            f"words that are no counters and are changed by locked instructions: "
            f"{', '.join(inlined)}; if one is a lock, its rules (context, lock-order) are not "
            "checked"
        )
    sites = patched(places)
    if sites:
        said.append("run as the image holds it, before a boot patches it: " + ", ".join(sites))
    said.append(
        "per-CPU variables and the struct pages of a CPU's own pages are touched by that CPU "
        "alone; at each call they have the values of the first CPU at boot, except the CPU's number"
    )
    left = places.memory.left_changed()
    if left:
        said.append(
            f"per-CPU variables that a call changes and no code here reads: {', '.join(left)}"
        )
    if places.clears:
        said.append(FENCE_ASSUMED)
    if buffers:
        said.append("a CPU's store buffer is empty when get or put returns")
    return said


def not_reached_of(places: Places) -> tuple[str, ...]:
    """The instructions that no thread came to, of functions of which some ran, as lines of C.

    Without DWARF as ranges of instructions.
    """
    lines: dict[str, None] = {}
    for run in never_ran(places):
        innermost = [places.lines_of(address)[-1] for address in run]
        in_c = [site for site in innermost if site.line]  # line 0: the compiler's own
        if in_c:
            for site in in_c:
                lines[f"{site.file}:{site.line} in {site.function}"] = None
            continue
        first, last = places.image.name_of(run[0]), places.image.name_of(run[-1]).partition("+")[2]
        many = f" to +{last}, {len(run)} instructions" if len(run) > 1 else f" {innermost[0].file}"
        lines[first + many] = None
    return tuple(lines)
