"""When an attack is on, for whoever must not load torch to know."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Schedule:
    """The attack is on in the rounds `at`, or else in rounds start, start + every, … up to end."""

    start: int = 1
    end: int | None = None
    every: int = 1
    at: Sequence[int] | None = None

    def after(self, warm: int) -> "Schedule":
        """What is left of it when the first `warm` rounds are without an attack."""
        if self.at:
            return replace(self, at=[round for round in self.at if round > warm])
        missed = max(0, -(-(warm + 1 - self.start) // self.every))
        return replace(self, start=self.start + missed * self.every)

    @property
    def first(self) -> int:
        """The first round in which the attack is on."""
        return min(self.at) if self.at else self.start

    @property
    def last(self) -> int | None:
        """The last round in which the attack is on; None if it goes on."""
        if self.at:
            return max(self.at)
        return None if self.end is None else self.start + (self.end - self.start) // self.every * self.every

    def on(self, round: int) -> bool:
        """Whether the attack is on in this round."""
        if self.at:
            return round in self.at
        since = round - self.start
        return since >= 0 and since % self.every == 0 and (self.end is None or round <= self.end)

    def spans(self, first: int, last: int) -> list[tuple[int, int]]:
        """The rounds from `first` to `last` in which it is on, those that follow one another as one span."""
        spans: list[tuple[int, int]] = []
        for round in filter(self.on, range(first, last + 1)):
            begun = spans.pop()[0] if spans and spans[-1][1] == round - 1 else round
            spans.append((begun, round))
        return spans


def together(schedules: Sequence[Schedule], rounds: int) -> Schedule:
    """When any of several attacks is on, in so many rounds; of one it is its own."""
    if len({*map(repr, schedules)}) == 1:
        return schedules[0]
    return Schedule(at=[round for round in range(1, rounds + 1) if any(each.on(round) for each in schedules)])
