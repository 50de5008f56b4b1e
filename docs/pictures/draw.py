"""Draws the pictures of the documentation from runs of the model.

    python docs/pictures/draw.py [FOLDER]       (or `make docs`; needs the extra `docs`)

Every number in a picture is read from the model: the module's PAMT, the kernel's counters, the
page allocator.  The files are the same from run to run.

Pictures have no background of their own, and their ink follows the reader's scheme, light or dark.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dpamt.abi.leaves import TDH_MEM_PAGE_DEMOTE
from dpamt.abi.pages import LEVEL_2M, PAGE_SIZE, PAGES_PER_2M, SIZE_2M
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.run.api import run_scenario
from dpamt.run.facts import PamtFacts
from dpamt.run.machine_of import machine_of
from dpamt.run.scenario import scenario_from_text
from dpamt.run.td import Td
from dpamt.run.world import World

HERE: Final = Path(__file__).parent

# Okabe and Ito's palette, which the colour-blind can distinguish too.  What is free is grey on
# white and on black.
FREE, STATIC, DYNAMIC = "#8080804d", "#d55e00", "#0072b2"
NOTHING: Final = "#00000000"
HUGE, GUEST = "#56b4e9", "#009e73"

NO_PAIR: Final = -1
CELLS_A_ROW: Final = 64

SMALL_HOST: Final = """
[host]
machine = "4GiB"
[[side]]
name = "{mode}"
pamt = "{mode}"
[[td]]
name = "td"
count = {tds}
memory = "{memory}"
vcpus = 2
share_2m = {share_2m}
image = "1MiB"
[[phase]]
name = "drawn"
steps = [{{ do = "build" }}]
"""
"""A scenario has to build its TDs; here the pictures do what happens, not the phase."""


class CallByCall(World):
    """A world in which each SEAMCALL is made by itself, so that each can be drawn."""

    in_bulk = False


def world(
    mode: str, tds: int, memory: str, share_2m: float, fault: float = 1.0
) -> tuple[World, list[Td]]:
    """A booted 4 GiB host with TDs built and a share of their memory in use."""
    text = SMALL_HOST.format(mode=mode, tds=tds, memory=memory, share_2m=share_2m)
    scenario = scenario_from_text(text, "picture")
    made = World(scenario, scenario.sides[0], machine_of(scenario))
    made.boot()
    alive = []
    for number in range(tds):
        td = Td(made, scenario.tds[0], number, f"picture-{number}")
        td.build()
        td.fault(fault, lambda _: None)
        alive.append(td)
    return made, alive


def save(figure: Figure, name: str) -> None:
    """Write the figure beside this file, or into the folder that was given, without a date."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.svg"
    figure.savefig(file, bbox_inches="tight", dpi=160, metadata={"Date": None}, transparent=True)
    plt.close(figure)
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"(stroke|fill): #000000", r"\1: currentColor", text)
    text = text.replace("</metadata>", f"</metadata>\n {_INK}", 1)
    file.write_text(text, encoding="utf-8")


_INK: Final = (
    "<style>svg { color: #1a1a1a; fill: currentColor; } "
    "@media (prefers-color-scheme: dark) { svg { color: #e6e6e6; } }</style>"
)
"""Letters have no colour of their own in matplotlib's SVG, so they take that of the whole."""

_CELL: Final = 8
"""Pixels of a cell's side, one of them the gap to the next."""


def draw_cells(axes: Axes, classes: list[int], columns: int, colours: list[str]) -> None:
    """Cells row by row, each in the colour of its class; what is between them is not painted."""
    classes = [*classes, *[0] * (-len(classes) % columns)]
    painted = np.array([to_rgba(colour) for colour in colours])[
        np.array(classes).reshape(-1, columns)
    ]
    cells = painted.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
    cells[_CELL - 1 :: _CELL, :, 3] = 0
    cells[:, _CELL - 1 :: _CELL, 3] = 0
    axes.imshow(cells, interpolation="nearest", aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def pamt_pages() -> None:
    """The idea: all of PAMT, page by page, of one host with the same TDs in both modes."""
    kinds = {
        "1G and 2M level": lambda pamt: pamt.level_1g + pamt.level_2m,
        "4K level, for all memory": lambda pamt: pamt.level_4k,
        "page bitmap": lambda pamt: pamt.bitmap,
        "page pairs: 4K level where TDs use 4K pages": lambda pamt: pamt.pairs,
    }
    colours = [HUGE, STATIC, GUEST, DYNAMIC]
    modes = {
        mode: world(mode, 3, "256MiB", 0.9)[0].snapshot().pamt for mode in ("static", "dynamic")
    }
    rows = -(-max(module_bytes(pamt) for pamt in modes.values()) // PAGE_SIZE // CELLS_A_ROW)
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 4.3))
    for axes, (mode, pamt) in zip(panels, modes.items(), strict=True):
        classes = [
            number + 1
            for number, size in enumerate(kinds.values())
            for _ in range(size(pamt) // PAGE_SIZE)
        ]
        classes += [0] * (rows * CELLS_A_ROW - len(classes))
        draw_cells(axes, classes, CELLS_A_ROW, [NOTHING, *colours])
        axes.set_title(f"{mode}: {module_bytes(pamt) // 1024:,} KiB", fontsize=11)
    figure.legend(
        handles=[Patch(color=c, label=t) for c, t in zip(colours, kinds, strict=True)],
        loc="lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(
        "PAMT of a 4 GiB host with three TDs of 256 MiB, 90 % at 2M; a cell is a page of 4 KiB",
        fontsize=9,
    )
    save(figure, "pamt-pages")


def module_bytes(pamt: PamtFacts) -> int:
    """What the module has of it: the kernel's counters are not PAMT."""
    return pamt.total - pamt.refcounts


def pamt_over_phases() -> None:
    """The default run: all of PAMT, and the part of it that comes and goes."""
    facts = run_scenario()
    names = ["module init", *(phase.name for phase in facts.phases)]
    names = names[-len(facts.sides[0].snapshots) :]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 2.8))
    width = 0.4
    for offset, side, colour in zip(
        (-width / 2, width / 2), facts.sides, (STATIC, DYNAMIC), strict=True
    ):
        totals = [snapshot.pamt.total / 2**20 for snapshot in side.snapshots]
        bars = left.bar(
            [x + offset for x in range(len(totals))], totals, width, color=colour, label=side.name
        )
        left.bar_label(bars, [f"{total:,.0f}" for total in totals], fontsize=6.5, padding=1)
    left.set_ylim(0, 5000)
    left.set_ylabel("PAMT, MiB")
    left.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
    pairs = [snapshot.pamt.pairs / 1024 for snapshot in facts.sides[1].snapshots]
    bars = right.bar(range(len(pairs)), pairs, 0.6, color=DYNAMIC)
    right.bar_label(bars, [f"{kib:,.0f}" for kib in pairs], fontsize=7, padding=1)
    right.set_ylabel("page pairs, KiB")
    for axes in (left, right):
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    save(figure, "pamt-over-phases")


def region_life() -> None:
    """PAGE_COUNT of one region after each SEAMCALL, through a TD's life."""
    scenario = scenario_from_text(
        SMALL_HOST.format(mode="dynamic", tds=2, memory="4MiB", share_2m=0), "picture"
    )
    made = CallByCall(scenario, scenario.sides[0], machine_of(scenario))
    made.boot()
    history: list[dict[int, int]] = []
    counts = made.module.pamt.count_2m

    def sampling(wall: SeamCall) -> SeamCall:
        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            status = wall(rax, args)
            history.append({region: counts.at(region).load() for region in made.view.pairs()})
            return status

        return seamcall

    for cpu in made.kernel.cpus:
        cpu.seamcall = sampling(cpu.seamcall)
    marks = []
    tds = [Td(made, scenario.tds[0], number, "life") for number in range(2)]
    for number, td in enumerate(tds, 1):
        td.build()
        td.fault(1.0, lambda _: None)
        marks.append((f"TD {number} in use", len(history)))
    for number in (2, 1):
        tds[number - 1].destroy()
        marks.append((f"TD {number} gone", len(history)))
    moments = Counter(region for moment in history for region in moment)
    peak = {region: max(moment.get(region, 0) for moment in history) for region in moments}
    always = max(moments, key=lambda region: moments[region])
    brief = max(
        (region for region in moments if moments[region] < 0.8 * moments[always]),
        key=lambda region: peak[region],
    )
    chosen = [always, brief]
    figure, panels = plt.subplots(len(chosen), 1, figsize=(7.6, 3.6), sharex=True)
    for axes, region in zip(panels, chosen, strict=True):
        states = [moment.get(region, NO_PAIR) for moment in history]
        turns = [
            at
            for at in range(len(states))
            if at in (0, len(states) - 1) or states[at] != states[at - 1]
        ]
        axes.fill_between(
            turns,
            0,
            512,
            where=[states[at] != NO_PAIR for at in turns],
            color=HUGE,
            alpha=0.35,
            linewidth=0,
            step="post",
            label="pair installed (8 KiB)",
        )
        axes.step(
            turns,
            [max(states[at], 0) for at in turns],
            where="post",
            color="black",
            linewidth=1,
            label="4K pages in TDX use",
        )
        axes.set_ylim(0, 530)
        axes.set_yticks([0, 256, 512])
        axes.set_ylabel(f"region\n{region * 2:,} MiB", fontsize=8)
        for text, at in marks:
            axes.axvline(at, color="#888888", linewidth=0.6, linestyle=":")
            if axes is panels[0]:
                axes.text(at, 545, text, fontsize=7, ha="center", color="#888888")
    panels[-1].legend(frameon=False, fontsize=7, loc="upper left")
    panels[-1].set_xlabel("SEAMCALLs")
    save(figure, "region-life")


def demote() -> None:
    """The 512 pages of a 2M region: mapped whole, split, and after 64 of them were taken back."""
    made, (td,) = world("dynamic", 1, "8MiB", 1.0)
    region = next(iter(made.view.large_pages(LEVEL_2M))) // PAGES_PER_2M
    gpa = next(gpa for gpa in range(SIZE_2M, 4 * SIZE_2M, SIZE_2M) if backing(td, gpa) == region)

    def pages() -> list[int]:
        if region not in made.view.pairs():
            return [1] * PAGES_PER_2M
        used = made.view.used_pages()
        first = region * PAGES_PER_2M
        return [2 if page in used else 0 for page in range(first, first + PAGES_PER_2M)]

    stages = [("one 2M page: no pair", pages())]

    def watching(wall: SeamCall) -> SeamCall:
        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            status = wall(rax, args)
            if rax == TDH_MEM_PAGE_DEMOTE and not status:
                stages.append(("after DEMOTE: a pair, count 512", pages()))
            return status

        return seamcall

    for cpu in made.kernel.cpus:
        cpu.seamcall = watching(cpu.seamcall)
    kvm_gmem_punch_hole(td.vm, made.kernel.cpus[0], gpa, 64 * PAGE_SIZE)
    count = made.view.pairs()[region].page_count
    stages.append((f"64 pages taken back: count {count}", pages()))
    figure, panels = plt.subplots(1, 3, figsize=(7.6, 2.1))
    for axes, (title, classes) in zip(panels, stages, strict=True):
        draw_cells(axes, classes, 32, [FREE, HUGE, GUEST])
        axes.set_title(title, fontsize=8)
    figure.legend(
        handles=[
            Patch(color=HUGE, label="part of a 2M page"),
            Patch(color=GUEST, label="4K page in TDX use"),
            Patch(color=FREE, label="free"),
        ],
        loc="lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    save(figure, "demote")


def backing(td: Td, gpa: int) -> int:
    """The 2M region that backs a guest address."""
    return td.vm.gmem.get_pfn(gpa // PAGE_SIZE)[0] // PAGES_PER_2M


def verify_growth() -> None:
    """States by CPUs of dpamt, Spin and TLC, as `bench_verify.py --json` measured them."""
    rows = json.loads((HERE / "verify-growth.json").read_text(encoding="utf-8"))["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2))
    for name, label, colour, mark in (
        ("as written", "Spin, as written", STATIC, "^"),
        ("lean", "Spin, lean", HUGE, "v"),
        ("counted", "Spin, counted by hand", GUEST, "s"),
        ("TLC counted", "TLC, counted by hand", GUEST, "x"),
        ("dpamt", "dpamt, one region", DYNAMIC, "o"),
    ):
        points = [
            (sum(map(int, row["cpus"].split("+"))), row[name])
            for row in rows
            if name in row and "+" not in row["cpus"]
        ]
        cpus = [n for n, _ in points]
        left.plot(
            cpus, [said["states"] for _, said in points], mark + "-", color=colour, label=label
        )
        right.plot(cpus, [said["seconds"] for _, said in points], mark + "-", color=colour)
    points = [
        (sum(map(int, row["cpus"].split("+"))), row["dpamt"])
        for row in rows
        if "dpamt" in row and "+" in row["cpus"]
    ]
    two = {"linestyle": "--", "marker": "o", "color": DYNAMIC, "markerfacecolor": NOTHING}
    cpus = [n for n, _ in points]
    left.plot(cpus, [said["states"] for _, said in points], label="dpamt, two regions", **two)
    right.plot(cpus, [said["seconds"] for _, said in points], **two)
    for axes, title in ((left, "states"), (right, "CPU seconds of the process")):
        axes.set_yscale("log")
        axes.set_xlabel("CPUs that get, use and put (v6)", fontsize=8)
        axes.set_title(title, fontsize=9)
    figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=8)
    figure.subplots_adjust(bottom=0.32)
    save(figure, "verify-growth")


def main() -> None:
    """Draw them all."""
    mpl.rcParams.update(
        {
            "svg.hashsalt": "dpamt",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.right": False,
            "axes.spines.top": False,
        }
    )
    pamt_pages()
    pamt_over_phases()
    region_life()
    demote()
    verify_growth()


if __name__ == "__main__":
    main()
