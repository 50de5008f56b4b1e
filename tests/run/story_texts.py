"""Small scenarios that several tests run."""

from hypothesis import assume
from hypothesis import strategies as st

SIDES = """
[[side]]
name = "static"
pamt = "static"
[[side]]
name = "v2"
design = "v2"
[[side]]
name = "merged"
design = "merged"
"""

CHURN = (
    """
title = "churn"
seed = 3
[host]
machine = "2GiB"
"""
    + SIDES
    + """
[[td]]
name = "big"
memory = "8MiB"
vcpus = 3
share_2m = 0.7
image = "40KiB"
[[td]]
name = "small"
count = 2
memory = "4MiB"
share_2m = 0.0
image = "8KiB"
[[phase]]
name = "up"
steps = [{ do = "build" }, { do = "fault" }]
[[phase]]
name = "churn"
steps = [
    { do = "convert", td = "big", share = 0.02, chunk = "4KiB", times = 2 },
    { do = "convert", td = "small", share = 1.0 },
    { do = "split", td = "big", share = 0.5 },
    { do = "balloon", td = "big", share = 0.3 },
    { do = "crash", td = "small", count = 1 },
]
[[phase]]
name = "down"
steps = [{ do = "shutdown", td = "big" }, { do = "crash", td = "small" }]
"""
)


@st.composite
def scenarios(draw: st.DrawFn) -> str:
    """Any small scenario whose steps can be, on a host that is large enough for it."""
    lines = [
        f"seed = {draw(st.integers(0, 99))}",
        "[host]",
        f'machine = "{draw(st.sampled_from(["512MiB", "3GiB", "1GiB,nodes=2"]))}"',
        f"fragmentation = {draw(st.sampled_from([0.0, 0.3]))}",
        f'fragmented = "{draw(st.sampled_from(["after-boot", "at-boot"]))}"',
        f'module = "{draw(st.sampled_from(["1.5.25", "2.0.08", "2.0.18"]))}"',
        f'tdmr_holes = "{draw(st.sampled_from(["memory-blocks", "cmrs"]))}"',
        SIDES,
    ]
    groups = draw(st.integers(1, 2))
    for group in range(groups):
        lines += [
            "[[td]]",
            f'name = "g{group}"',
            f"count = {draw(st.integers(1, 2))}",
            f"memory = {draw(st.integers(1, 2)) * (2 << 20)}",
            f"vcpus = {draw(st.integers(1, 3))}",
            f"share_2m = {draw(st.sampled_from([0.0, 0.5, 1.0]))}",
            f"faulted = {draw(st.sampled_from([0.3, 1.0]))}",
            f"image = {draw(st.sampled_from([4096, 12288, 1 << 18]))}",
        ]
    alive = False
    for phase in range(draw(st.integers(1, 3))):
        lines += ["[[phase]]", f'name = "p{phase}"', "steps = ["]
        for _ in range(draw(st.integers(0, 4))):
            lively = ["fault", "convert", "balloon", "split", "shutdown", "crash"]
            do = draw(st.sampled_from(["build", *lively])) if alive else "build"
            step = f'do = "{do}"'
            if do in ("fault", "convert", "balloon", "split"):
                step += f", share = {draw(st.sampled_from([0.02, 0.5, 1.0]))}"
            if do == "convert":
                step += f", chunk = {draw(st.sampled_from([4096, 12288, 1 << 20, 2 << 20]))}"
            alive = do not in ("shutdown", "crash")
            lines.append(f"  {{ {step} }},")
        lines.append("]")
    text = "\n".join(lines) + "\n"
    assume('"build"' in text)  # TDs that are never built are refused
    return text
