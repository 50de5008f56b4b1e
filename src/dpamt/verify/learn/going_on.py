"""A run of a thread that learns several edges: it goes on from each place that is new."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dpamt.verify.learn.automaton import Automaton, Events, Node, Ran, Stopped

Further = Callable[[int, "Events"], Any]
"""Given a node that a thread stands at for the first time, and what happened on the way there: the
result of its step to go on with, or STOP."""
STOP: Final = object()


class GoingOn:
    """A run that learns an edge, and goes on from each place that is new."""

    def __init__(
        self, automaton: "Automaton", node: "Node", result: Any, further: Further | None
    ) -> None:
        self._automaton = automaton
        self._further = further
        self.node = node
        self.result = result
        """The edge that is being learned: from which node, by which result."""
        self.history = (*node.history, result)
        self.edge: tuple[int, Events] | None = None
        """The last edge, unless ``further`` was given it."""
        self.failure: BaseException | None = None
        """What ``further`` raised: not through the thread's own code, which might catch it."""

    def arrived(self, stopped: "Stopped") -> Any:
        """The thread stands before its next step: the result to go on with, or STOP."""
        automaton = self._automaton
        watch, recorder = automaton.watch, automaton.recorder
        known = len(automaton.nodes)
        number = automaton.arrive(stopped, None, self.history)
        self.edge = self.node.edges[self.result] = number, tuple(recorder.events)
        if number < known or self._further is None:
            return STOP
        edge, self.edge = self.edge, None
        observer, watch.observer = watch.observer, None
        try:
            result = self._further(*edge)
        except BaseException as failure:
            self.failure = failure
            return STOP
        finally:
            watch.observer = observer
        if result is STOP:
            return STOP
        self.node = automaton.nodes[number]
        self.result = None if self.node.dropped else result
        self.history = (*self.history, self.result)
        automaton.come_from = number
        return self.result

    def ended(self, ran: "Ran") -> None:
        """The thread has ended instead."""
        number = self._automaton.arrive(None, ran.end, self.history)
        self.edge = self.node.edges[self.result] = number, ran.events

    def again(self) -> "Ran":
        """The whole run once more."""
        return self._automaton.untraced(self.history)
