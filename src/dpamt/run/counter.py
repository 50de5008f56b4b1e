"""Counting SEAMCALLs by leaf and status, at the wall, for the price of one dictionary step."""

from dpamt.abi.exits import EXIT_REASON_NAMES
from dpamt.abi.leaves import RAX_LEAF_MASK, TDH_VP_ENTER, leaf_name
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.abi.status import STATUS_MASK, status_name
from dpamt.run.facts import SeamcallCount


class SeamcallCounter:
    """Counts what goes through the walls it has wrapped."""

    def __init__(self) -> None:
        self._ok: dict[int, int] = {}
        self._others: dict[tuple[int, int], int] = {}

    def wrap(self, seamcall: SeamCall) -> SeamCall:
        """The same wall, counted."""
        succeeded, others = self._ok, self._others

        def counted(rax: int, args: TdxModuleArgs) -> int:
            status = seamcall(rax, args)
            if status:
                # The low half tells operands, which nobody counts; of VP.ENTER, the exit reason.
                key = (rax, status if rax == TDH_VP_ENTER else status & STATUS_MASK)
                others[key] = others.get(key, 0) + 1
            else:
                succeeded[rax] = succeeded.get(rax, 0) + 1
            return status

        return counted

    def add(self, rax: int, status: int, count: int) -> None:
        """Count SEAMCALLs that were not made one by one."""
        if status:
            key = (rax, status if rax == TDH_VP_ENTER else status & STATUS_MASK)
            self._others[key] = self._others.get(key, 0) + count
        else:
            self._ok[rax] = self._ok.get(rax, 0) + count

    @property
    def total(self) -> int:
        """SEAMCALLs since :meth:`take`."""
        return sum(self._ok.values()) + sum(self._others.values())

    def take(self) -> tuple[SeamcallCount, ...]:
        """The counts so far, by leaf name and status name; starts again from zero."""
        counts: dict[tuple[str, str], int] = {}
        for rax, count in self._ok.items():
            _add(counts, rax, 0, count)
        for (rax, status), count in self._others.items():
            _add(counts, rax, status, count)
        self._ok.clear()
        self._others.clear()
        return tuple(
            SeamcallCount(leaf, status, count) for (leaf, status), count in sorted(counts.items())
        )


def _add(counts: dict[tuple[str, str], int], rax: int, status: int, count: int) -> None:
    leaf = rax & RAX_LEAF_MASK
    name = status_name(status)
    if leaf == TDH_VP_ENTER and not status & STATUS_MASK:
        name = f"{name}, {EXIT_REASON_NAMES.get(status, f'exit {status}')}"
    key = leaf_name(leaf), name
    counts[key] = counts.get(key, 0) + count
