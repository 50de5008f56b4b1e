"""The plan against a calculator that shares nothing with it, byte for byte, on random hosts."""

from random import Random

from dpamt.plan.mix import TdMix
from dpamt.plan.plan import HostPlan, plan_host
from dpamt.platform.read_machine import machine_from_text

from . import calculator as by_hand
from .calculator import GIB, KIB, MIB, PAGE, Td

HOSTS = 500


def host(random: Random) -> list[tuple[int, int]]:
    """Ranges of memory above 1 MiB: large ones, fragments of 1 MiB, ends off 2M borders."""
    ranges = []
    start = MIB
    for _ in range(random.randrange(1, 9)):
        size = random.choice(
            (MIB, random.randrange(1, 600) * PAGE, random.randrange(2, 48) * MIB)
        )  # fmt: skip
        ranges.append((start, start + size))
        start += size + random.choice((PAGE, MIB, 3 * MIB, 700 * KIB // PAGE * PAGE, 2 * GIB))
    if random.random() < 0.05:
        ranges.append((start + GIB, start + GIB * random.randrange(2, 40)))
    elif sum(end - start for start, end in ranges) < 32 * MIB:
        ranges.append((start + GIB, start + GIB + 64 * MIB))
    return ranges


def tds(random: Random, memory: int) -> list[Td]:
    """Some fit, some by far not."""
    kinds = []
    for _ in range(random.randrange(1, 4)):
        size = 2 * MIB * random.randrange(1, max(2, min(32, memory // (8 * MIB))))
        most = max(1, round(memory / size * random.choice((0.2, 0.5, 1.5))))
        share = random.choice((0.0, 0.0, 0.25, 0.5, 0.9, 1.0))
        kinds.append(Td(random.randint(1, min(most, 40)), size, random.randrange(1, 9), share))
    return kinds


def drawn(seed: int) -> tuple[list[tuple[int, int]], list[Td], HostPlan] | None:
    random = Random(f"calculator {seed}")
    memory = host(random)
    lines = [f"BIOS-e820: [mem {a:#018x}-{b - 1:#018x}] usable\n" for a, b in memory]
    kinds = tds(random, sum(end - start for start, end in memory))
    if not any(pages == 512 for pages in by_hand.capacities(memory)):
        return None
    machine = machine_from_text("".join(lines), f"drawn {seed}")
    mixes = [TdMix(td.count, td.memory, td.vcpus, td.share_2m) for td in kinds]
    if any(mix.memory > sum(b - a for a, b in memory) for mix in mixes):
        return None
    return memory, kinds, plan_host(machine, mixes)


def check(memory: list[tuple[int, int]], kinds: list[Td], plan: HostPlan) -> bool:
    """Hold one plan against the calculator; whether its mix fits."""
    size, mix = plan.host, plan.mix
    assert mix is not None
    static = by_hand.static_bytes(memory)
    idle = by_hand.dynamic_idle_bytes(memory, memory[-1][1])
    assert (size.static.total, size.dynamic.total) == (static, idle)
    regions = by_hand.capacities(memory)
    assert [pages for pages, n in size.capacities for _ in range(n)] == regions
    for part, ways in ((mix, kinds), (plan.today, [Td(k.count, k.memory, k.vcpus, 0.0)
                                                  for k in kinds])):  # fmt: skip
        assert part is not None
        counted = by_hand.count_tds(ways)
        pages = part.pages
        assert (pages.control, pages.sept, pages.guest_4k, pages.guest_2m) == (
            counted.control, counted.sept, counted.guest_4k, counted.guest_2m,
        )  # fmt: skip
        least, most = by_hand.fewest_and_most_pairs(counted, regions)
        assert (part.pairs.minimum, part.pairs.worst) == (least, most)
        assert least <= part.pairs.fresh <= most <= len(regions)
        assert least <= part.pairs.scattered <= most
        assert part.dynamic.worst == idle + most * 8 * KIB
        taken = counted.control + counted.sept + counted.guest_4k + 512 * counted.guest_2m
        all_memory = sum(end - start for start, end in memory)
        assert part.left_static == all_memory - static - taken * PAGE - counted.kvm_static
        assert part.left_dynamic == (
            all_memory - part.dynamic.fresh - taken * PAGE - counted.kvm_dynamic
        )
    assert plan.answer.today.saved_worst == static - idle - 8 * KIB * plan.today.pairs.worst  # type: ignore[union-attr]
    return mix.fits


def test_the_calculator_agrees_on_random_hosts() -> None:
    fits, checked, seed = [0, 0], 0, 0
    fragmented = 0
    while checked < HOSTS:
        case = drawn(seed)
        seed += 1
        if case is None:
            continue
        fits[check(*case)] += 1
        fragmented += any(pages < 512 for pages in by_hand.capacities(case[0]))
        checked += 1
    assert min(fits) > HOSTS // 10
    assert fragmented > HOSTS // 2
