"""Which calls the rules of a boot hit, and what came of each rule: counted in one place."""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar


class Counting(Protocol):
    """A rule that says which of the calls it looks at are hit; 0 stands for any."""

    @property
    def text(self) -> str:
        """Its line."""

    @property
    def nth(self) -> int:
        """Only the N-th."""

    @property
    def every(self) -> int:
        """Every N-th."""

    @property
    def times(self) -> int:
        """The limit of what is kept."""


R = TypeVar("R", bound=Counting)


class Tally(Generic[R]):
    """Rules of one kind: by rule, the calls looked at and those hit."""

    def __init__(self, rules: Sequence[R]) -> None:
        self.rules = rules
        self.seen = [0] * len(rules)
        self.hits = [0] * len(rules)

    def is_hit(self, index: int, drawn: bool = True, row: int = 1) -> bool:
        """One more call that a rule looks at; ``drawn``: whether chance lets it be hit; ``row``:
        how many calls in a row ``nth`` stands for."""
        rule = self.rules[index]
        self.seen[index] += 1
        seen = self.seen[index]
        if not drawn or (rule.times and self.hits[index] >= rule.times):
            return False
        if rule.nth and not rule.nth <= seen < rule.nth + row:
            return False
        if rule.every and seen % rule.every:
            return False
        self.hits[index] += 1
        return True

    def results(self) -> list[tuple[str, int, int]]:
        """By rule: its text, calls looked at, calls hit."""
        texts = (rule.text for rule in self.rules)
        return list(zip(texts, self.seen, self.hits, strict=True))
