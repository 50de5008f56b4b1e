"""The judge: takes a recording item by item, and knows at the end what is wrong with it.

A call takes effect somewhere between its start and its end, and calls of different CPUs overlap.
Items come in the order of their ends.  So what looks impossible is first held back: when a later
item turns out to have been under way at the same time on the same region or TD, the order of the
two is not known, and the matter is counted as undecided.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from dpamt.abi import leaves as leaf
from dpamt.abi.leaves import RAX_LEAF_MASK
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_INTERRUPTED_BUSY,
    TDX_INTERRUPTED_RESUMABLE,
    status_name,
)
from dpamt.trace.judge.contention import (
    GUEST,
    NOBODY,
    guest_may_hold,
    may_hold,
)
from dpamt.trace.judge.counts import compare
from dpamt.trace.judge.findings import (
    BUSY_ALONE,
    GET_FAILED,
    IMPOSSIBLE,
    PAIR_BUSY,
    PUT_TOO_MANY,
    Findings,
    TraceFinding,
)
from dpamt.trace.judge.follow import Follower
from dpamt.trace.judge.pages_of import Touched, touched
from dpamt.trace.judge.refusals import Refusals
from dpamt.trace.judge.result import Judgement, leaks
from dpamt.trace.judge.series import Series
from dpamt.trace.judge.state import Origin, State, begin_of, origin_text
from dpamt.trace.judge.times import Histogram, Slow
from dpamt.trace.recording.model import MOST_CALLER, Call, Health, Item, Lost, PamtOp, shown

_HELD_BACK: Final = 1_000_000_000
"""Nanoseconds that a finding waits for items that were under way at the same time."""
_MOST_HELD_BACK: Final = 1024
_RECENT: Final = 512
_MOST_TASKS: Final = 1 << 16
_EACH: Final = 2048
_EVERY: Final = 64
"""Calls between two points of the series, once each call no longer has a point of its own."""
_PAIR_LEAVES: Final = frozenset({leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_PHYMEM_PAMT_REMOVE})
_INTERRUPTED: Final = (TDX_INTERRUPTED_RESUMABLE, TDX_INTERRUPTED_BUSY)
_VP_ENTER: Final = leaf.TDH_VP_ENTER


class _Waiting:
    """Something that a later item may put in another light."""

    __slots__ = ("call", "finding", "holders", "mine", "op_region", "operand", "region", "until")

    def __init__(self, call: Call | PamtOp, until: int) -> None:
        self.call = call
        self.until = until
        self.finding: TraceFinding | None = None
        self.region: int | None = None
        self.operand = ""
        self.mine = Touched()
        self.holders: list[str] = []
        self.op_region: int | None = None


class Judge:
    """Give it every item, then ask for :meth:`judgement`."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.state = State()
        self.findings = Findings()
        self.statuses: Counter[tuple[int, int]] = Counter()
        self.contention: Counter[tuple[str, str, str]] = Counter()
        self.undecided = 0
        self.forgotten = 0
        self.from_boot = False
        self.slow = Slow()
        self.series = Series(("pairs", "pages in use"))
        self.most_pairs = 0
        self.adds = self.removes = 0
        self.ops: dict[str, Histogram] = {}
        """What of gets and puts is no duration of theirs."""
        self.failed_gets: Counter[int] = Counter()
        self._follower = Follower(self.state, self)
        self._refusals = Refusals(self.state, self)
        self._waiting: list[_Waiting] = []
        self._recent: deque[Call] = deque(maxlen=_RECENT)
        self._pair_calls: dict[int, Call] = {}
        """By task: its last PAMT.ADD or PAMT.REMOVE."""
        self._count = 0
        self._now = 0

    def take_all(self, items: Iterable[Item]) -> None:
        """The next items, in the order of ends."""
        take = self.take
        for item in items:
            take(item)

    def take(self, item: Item) -> None:
        """The next item, in the order of ends."""
        if type(item) is Call:
            self._now = item.end
            self._call(item)
        elif type(item) is PamtOp:
            self._now = item.end
            self._op(item)
        elif isinstance(item, Lost):
            self._lost(item)
        if self._waiting and self._waiting[0].until < self._now:
            self._settle(self._now)

    # SEAMCALLs.

    def _call(self, call: Call) -> None:
        if self._waiting:
            self._look_back(call)
        status, number = call.status, call.rax & RAX_LEAF_MASK
        self._recent.append(call)
        key = number, -1 if status is None else status & STATUS_MASK
        self.statuses[key] = self.statuses.get(key, 0) + 1
        if status is None:
            self._unanswered(call)
            return
        if number == _VP_ENTER:
            return
        is_pair = number in _PAIR_LEAVES
        if is_pair:
            if len(self._pair_calls) >= _MOST_TASKS:
                self._pair_calls.clear()
            self._pair_calls[call.pid or -1 - call.cpu] = call
        self.slow.add(call, number)
        if not status:
            if number == leaf.TDH_SYS_CONFIG:
                self.from_boot = True
            self._follower.take(call, number)
            self.adds += number == leaf.TDH_PHYMEM_PAMT_ADD
            self.removes += number == leaf.TDH_PHYMEM_PAMT_REMOVE
        elif status >> 63:
            if number == leaf.TDH_MEM_SEPT_ADD and status & STATUS_MASK in _INTERRUPTED:
                self._follower.take_part(call)
            self._refusals.take(call)
        pairs = self.state.pairs
        if pairs > self.most_pairs:
            self.most_pairs = pairs
        self._count += 1
        if is_pair or self._count < _EACH or not self._count % _EVERY:
            self.series.add(call.end, pairs, self.state.used)

    def _unanswered(self, call: Call) -> None:
        """It may have taken effect or not: what it touches is not known any more."""
        touches = touched(call, self.state.owners)
        for index in touches.regions:
            self._doubt(index)
        td = None if touches.td is None else self.state.tds.get(touches.td)
        if td is not None:
            td.children = td.lifecycle = None
        if call.leaf in (leaf.TDH_MEM_PAGE_REMOVE, leaf.TDH_MEM_SEPT_REMOVE):
            self.state.lose_pages()

    def _doubt(self, index: int) -> None:
        region = self.state.region(index)
        self.state.set_pair(index, region, None)
        self.state.set_used(region, 0, 0)
        self.state.set_state(region, 0)
        region.origin = None
        region.refs = None

    def _lost(self, lost: Lost) -> None:
        self._settle(None)
        self.state.forget()
        self.forgotten += 1
        self._recent.clear()

    # What followers and refusals find.

    def impossible(self, call: Call, region: int | None, text: str, origin: Origin | None) -> None:
        """The answer cannot be, unless somebody else was at it at the same time."""
        if region is not None and self.state.region(region).overlaps(call):
            self.undecided += 1
            return
        waiting = self._wait(call)
        waiting.region = region
        because = text
        if origin is not None or region is not None:
            because += f" ({origin_text(origin)})"
        waiting.finding = self._finding(IMPOSSIBLE, call, because)

    def host(self, kind: str, call: Call, text: str, origin: Origin | None) -> None:
        """What a correct host never meets, whoever else was about."""
        because = text if origin is None else f"{text} (last: {origin_text(origin)})"
        self.findings.add(self._finding(kind, call, because))

    def busy(self, call: Call, operand: str) -> None:
        """A lock was held: by whom shows when everybody who was under way is known."""
        waiting = self._wait(call)
        waiting.operand = operand
        waiting.mine = touched(call, self.state.owners)
        for other in self._recent:
            if other is not call and other.end >= begin_of(call):
                self._may_hold(waiting, other)

    def _finding(self, kind: str, call: Call, because: str) -> TraceFinding:
        assert call.status is not None
        caller = shown(call.caller, MOST_CALLER)
        if call.comm:
            caller = f"{caller} ({shown(call.comm)}-{call.pid})".strip()
        what = f"{call.name} answered {status_name(call.status)}"
        return TraceFinding(kind, call.end, call.cpu, what, because, caller)

    # Waiting for items that were under way at the same time.

    def _wait(self, call: Call | PamtOp) -> _Waiting:
        if len(self._waiting) >= _MOST_HELD_BACK:
            self._settle_one(self._waiting.pop(0))
        waiting = _Waiting(call, call.end + _HELD_BACK)
        self._waiting.append(waiting)
        return waiting

    def _look_back(self, call: Call) -> None:
        """What waits, in the light of a call that ended later."""
        begun = begin_of(call)
        touches = None
        dropped = []
        for waiting in self._waiting:
            if begun > waiting.call.end or call.cpu == waiting.call.cpu:
                continue
            if waiting.operand:
                self._may_hold(waiting, call)
                continue
            if touches is None:
                touches = touched(call, self.state.owners)
            if waiting.region is not None and waiting.region in touches.regions:
                dropped.append(waiting)
        for waiting in dropped:
            self._waiting.remove(waiting)
            self.undecided += 1

    def _may_hold(self, waiting: _Waiting, other: Call) -> None:
        call = waiting.call
        assert isinstance(call, Call)
        if other.cpu == call.cpu:
            return
        theirs = touched(other, self.state.owners)
        if may_hold(call, waiting.mine, waiting.operand, other, theirs):
            waiting.holders.append(other.name)

    def _settle(self, now: int | None) -> None:
        """Findings that have waited long enough; all of them with None."""
        while self._waiting and (now is None or self._waiting[0].until < now):
            self._settle_one(self._waiting.pop(0))

    def _settle_one(self, waiting: _Waiting) -> None:
        if waiting.finding is not None:
            self.findings.add(waiting.finding)
        if not waiting.operand:
            return
        call = waiting.call
        assert isinstance(call, Call)
        holders = sorted(set(waiting.holders))
        guest = guest_may_hold(call, waiting.operand)
        if not holders:
            holders = [GUEST if guest else NOBODY]
        for holder in holders:
            self.contention[call.name, waiting.operand, holder] += 1
        if call.leaf in _PAIR_LEAVES:
            told = f"held by {', '.join(holders)}"
            self.findings.add(self._finding(PAIR_BUSY, call, f"{waiting.operand}: {told}"))
        elif holders == [NOBODY] and self.health.whole and call.start is not None:
            because = f"no call on another CPU that touches {waiting.operand} was under way"
            self.findings.add(self._finding(BUSY_ALONE, call, because))

    # Gets and puts.

    def _op(self, op: PamtOp) -> None:
        last = self._pair_calls.get(op.pid or -1 - op.cpu)
        inside = (
            last is not None
            and op.start is not None
            and begin_of(last) >= op.start
            and last.end <= op.end
        )
        if op.start is not None:
            kind = f"{'put' if op.put else 'get'} {'with' if inside else 'without'} SEAMCALL"
            self.slow.add_op(kind, op, op.end - op.start)
            if inside and last is not None and last.start is not None:
                beside = op.end - op.start - (last.end - last.start)
                self.ops.setdefault(f"{kind}, less its time", Histogram()).add(max(beside, 0))
        if op.waited is not None:
            what = f"{'put' if op.put else 'get'}, waiting for locks"
            self.ops.setdefault(what, Histogram()).add(op.waited)
        failed = not op.put and op.result not in (None, 0)
        if failed:
            assert op.result is not None
            self.failed_gets[op.result] += 1
            self.findings.add(
                TraceFinding(
                    GET_FAILED,
                    op.end,
                    op.cpu,
                    f"tdx_pamt_get() returned {op.result}",
                    "" if op.pfn is None else f"for page {op.pfn << 12:#x}",
                    self._who(op),
                )
            )
        if op.pfn is None:
            return
        self._doubtful_puts(op)
        region = self.state.region(op.pfn >> 9)
        if op.put:
            self._put(op)
        elif not failed:
            if (
                inside
                and last is not None
                and not last.status
                and last.before[0] >> 21 == op.pfn >> 9
            ):
                region.added = op.end, op.comm, op.caller
                region.refs = 1 if region.refs is None else region.refs + 1
            elif region.refs is not None:
                region.refs += 1

    def _put(self, op: PamtOp) -> None:
        assert op.pfn is not None
        index = op.pfn >> 9
        region = self.state.region(index)
        region.put_at = op.end
        if region.refs is None:
            return
        if region.refs > 0:
            region.refs -= 1
            return
        waiting = self._wait(op)
        waiting.op_region = index
        waiting.finding = TraceFinding(
            PUT_TOO_MANY,
            op.end,
            op.cpu,
            f"tdx_pamt_put() of page {op.pfn << 12:#x}",
            f"region {index << 21:#x} has been put as often as it was got",
            self._who(op),
        )

    def _doubtful_puts(self, op: PamtOp) -> None:
        """A get that was under way when a put seemed to be one too many."""
        if op.put or op.pfn is None or not self._waiting:
            return
        begun = op.end if op.start is None else op.start
        for waiting in [one for one in self._waiting if one.op_region == op.pfn >> 9]:
            if begun <= waiting.call.end and op.cpu != waiting.call.cpu:
                self._waiting.remove(waiting)
                self.undecided += 1
                self.state.region(op.pfn >> 9).refs = None

    @staticmethod
    def _who(op: PamtOp) -> str:
        caller = shown(op.caller, MOST_CALLER)
        return f"{caller} ({shown(op.comm)}-{op.pid})".strip() if op.comm else caller

    # The end.

    def judgement(self, form: str, name: str, counts: dict[int, int] | None = None) -> Judgement:
        """Everything, when no more items come; ``counts``: the kernel's counters at the end."""
        self._settle(None)
        for finding in () if counts is None else compare(self.state, counts, self._now):
            self.findings.add(finding)
        self.series.add(self._now, self.state.pairs, self.state.used)
        found = leaks(self.state, self._now, self.health.ops > 0)
        for leak, count in found:
            self.findings.add(leak, count)
        return Judgement(
            name=name,
            form=form,
            health=self.health,
            from_boot=self.from_boot and not self.forgotten,
            dynamic=self.state.dynamic,
            blind=self.state.blind,
            forgotten=self.forgotten,
            statuses=self.statuses,
            findings=self.findings,
            undecided=self.undecided,
            contention=self.contention,
            adds=self.adds,
            removes=self.removes,
            pairs_now=self.state.pairs,
            pairs_most=self.most_pairs,
            pages_now=self.state.used,
            tds_now=sum(td.lifecycle is not None for td in self.state.tds.values()),
            series=self.series.finish(),
            by_leaf=self.slow.by_leaf,
            ops=self.slow.by_kind | self.ops,
            slow=self.slow.worst(),
            slow_calls=self.slow.slow_calls(),
            seconds=0.0
            if self.health.first is None
            else ((self.health.last or 0) - self.health.first) / 1e9,
        )
