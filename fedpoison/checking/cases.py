"""A rule under check, and the situations it is put in."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedpoison.common.errors import AlgorithmError
from fedpoison.common.seeding import Stream
from fedpoison.contract.entry import Entry, Step
from fedpoison.contract.lookup import find
from fedpoison.defences.defence import Defence
from fedpoison.defences.situation import Situation
from fedpoison.types import Layer, Probe, Verdict

VECTORS = ("previous", "root_update", "params")
"""What a rule may be given besides the updates that lives among them."""
DTYPES = (torch.float32, torch.float64)
SHAPES = ((11, 2), (11, 0), (10, 1), (6, 2))
"""The (n, f) of ordinary rounds, of which those are taken that a rule can take: odd and even, with and without f."""
D = 24
_SEARCHED = 60
"""Rules that can take none of these are looked for a pair up to so many clients."""


class RuleError(Exception):
    """A rule gave no aggregate; `kind` tells one failure from another."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind, self.sentence = kind, sentence


@dataclass(frozen=True)
class Case:
    """One situation: what arrives at the server, and which of a contract's moves is made of it.

    `attackers`: the rows whose f is spoken of, where it matters. `rounds`: how often the same updates arrive, for
    rules with memory. `cohorts`: instead of all of them, these rows arrive in the first round, in the second, and so
    on, in this order. `move`: 0 is a contract's simplest.
    """

    updates: Tensor
    f: int
    sizes: Tensor
    client_ids: Tensor
    previous: Tensor | None = None
    root_update: Tensor | None = None
    params: Tensor | None = None
    attackers: tuple[int, ...] = ()
    rounds: int = 1
    cohorts: tuple[tuple[int, ...], ...] = ()
    move: int = 0
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        n, d = self.updates.shape
        return n, d

    @property
    def vectors(self) -> dict[str, Tensor]:
        """What else is given that lives among the updates, by name."""
        given = {name: getattr(self, name) for name in VECTORS}
        return {name: vector for name, vector in given.items() if vector is not None}

    @property
    def honest(self) -> list[int]:
        """The rows that are not the attackers'."""
        return [i for i in range(len(self.updates)) if i not in self.attackers]

    def mapped(self, change: Callable[[Tensor], Tensor], but: tuple[str, ...] = ()) -> "Case":
        """The same change made to the updates and to all vectors but those named."""
        moved: dict[str, Any] = {name: change(vector) for name, vector in self.vectors.items() if name not in but}
        return replace(self, updates=change(self.updates), **moved)

    def of_rows(self, kept: Iterable[int]) -> "Case":
        """These clients alone, in this order."""
        rows = list(kept)
        attackers = tuple(rows.index(i) for i in self.attackers if i in rows)
        f = self.f - (len(self.attackers) - len(attackers))
        taken: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("updates", "sizes", "client_ids")}
        cohorts = tuple(tuple(rows.index(i) for i in cohort if i in rows) for cohort in self.cohorts)
        return replace(self, attackers=attackers, f=f, cohorts=cohorts, **taken)

    @property
    def arrivals(self) -> "list[Case]":
        """What arrives in each round."""
        alone = replace(self, rounds=1, cohorts=())
        return [alone.of_rows(cohort) for cohort in self.cohorts] or [alone] * self.rounds

    def of_columns(self, kept: list[int]) -> "Case":
        """These coordinates alone."""
        return self.mapped(lambda values: values[..., kept])

    def jittered(self, seed: int) -> "Case":
        """The updates moved by a ten-thousandth, which no tie survives."""
        size = (float(self.updates.abs().max()) or 1.0) * 1e-4
        return replace(self, updates=self.updates + size * drawn(seed, *self.shape).to(self.updates.dtype))


def drawn(seed: int, n: int, d: int) -> Tensor:
    """Normal numbers [n, d] in float64."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _layers(d: int) -> tuple[Layer, ...]:
    """A vector, and an output layer of as many classes and features as fit behind it, with its bias."""
    classes = next((c for c in (4, 3, 2) if c * c <= d), 1)
    features = max(1, min(3, d // classes - 1))
    bias = classes if d > classes * features else 0
    first = max(0, d - classes * features - bias)
    ends = [0, first, first + classes * features, d]
    shapes = [(first,), (classes, features), (bias,)]
    named = zip(("hidden", "weight", "bias"), map(slice, ends, ends[1:]), shapes, strict=False)
    return tuple(Layer(*each) for each in named if each[1].stop > each[1].start)


def _distance_from(root: Tensor) -> Probe:
    """A loss and an error rate that are least at the root update, for rules that try updates on samples."""

    def probe(update: Tensor) -> tuple[float, float]:
        distance = float((update - root).double().norm())
        return distance, distance / (1 + distance)

    return probe


@dataclass(frozen=True)
class Subject:
    """A rule with its options, and how much effort is made to break it: so many draws for each contract.

    A rule that is built around another gets the median; a probe measures the distance from the root update.
    """

    entry: Entry
    options: Mapping[str, Any]
    effort: int

    @property
    def looks_at(self) -> set[str]:
        """What it is shown, reference rows included."""
        words = {*self.entry.asks, *self.entry.references}
        behind = {"zero_model": "params", "probe": "root_update"}
        return words | {behind[word] for word in words & {*behind}}

    @cached_property
    def defence(self) -> Defence:
        """The rule alone."""
        base: Step | None = (find("aggregator", "median"), {}) if "base" in self.entry.asks else None
        return Defence((), (self.entry, self.options), base)

    def allows(self, n: int, f: int) -> bool:
        """Whether it takes n clients of which f are malicious."""
        return n > 0 and not self.defence.problems(n, f)

    def most(self, n: int) -> int:
        """The largest minority of n clients that it withstands."""
        return max((f for f in range((n + 1) // 2) if self.allows(n, f)), default=0)

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """The (n, f) of ordinary rounds that it takes."""
        possible = [(n, f) for n, f in SHAPES if self.allows(n, f)]
        return possible or [(n, f) for n in range(1, _SEARCHED) for f in (1, 0) if self.allows(n, f)][:1]

    def case(self, updates: Tensor, f: int, seed: int = 0, **changes: Any) -> Case:
        """A round with these updates and whatever else the rule asks for."""
        n, d = updates.shape
        vectors = {
            name: (0.5 + 0.5 * drawn(seed + 90 + i, 1, d)[0]).to(updates.dtype)
            for i, name in enumerate(VECTORS)
            if name in self.looks_at
        }
        known = {"sizes": torch.arange(1.0, n + 1).double(), "client_ids": torch.arange(n) * 3}
        return Case(updates, f, seed=seed, **{**known, **vectors, **changes})

    def ordinary(self, dtypes: tuple[torch.dtype, ...] = DTYPES, d: int = D) -> Iterator[Case]:
        """Rounds without an attack, two shapes a draw; every other has clients of unequal strength.

        A rule with memory plays second rounds too.
        """
        for seed in range(self.effort):
            first, *others = self.shapes
            for n, f in (first, *others[seed % len(others) :][:1]) if others else (first,):
                updates = drawn(seed, n, d) + 0.5
                if seed % 2:
                    updates *= drawn(seed + 30, n, 1).exp()
                for dtype in dtypes:
                    for rounds in (1, 2) if "state" in self.entry.asks else (1,):
                        yield self.case(updates.to(dtype), f, seed, move=seed + 1, rounds=rounds)

    def situation(self, case: Case) -> Situation:
        """The case's first round as the defence is told of it."""
        nothing = torch.zeros_like(case.updates[0])
        return Situation(
            f=case.f,
            client_ids=case.client_ids,
            sizes=case.sizes,
            params=nothing if case.params is None else case.params,
            previous=nothing if case.previous is None else case.previous,
            stream=Stream(case.seed, "defence", 1),
            state={},
            root_update=case.root_update,
            layers=_layers(len(nothing)),
            probe=None if case.root_update is None else _distance_from(case.root_update),
        )

    def play(self, case: Case) -> Verdict:
        """What the defence makes of the case, in its last round; RuleError if there is no aggregate."""
        situation = self.situation(case)
        for number, arrived in enumerate(case.arrivals, 1):
            stream = situation.stream._replace(round=number)
            ids, sizes = arrived.client_ids, arrived.sizes
            situation = replace(situation, f=arrived.f, client_ids=ids, sizes=sizes, stream=stream)
            try:
                verdict = self.defence(arrived.updates, situation)
            except AlgorithmError as error:
                raise RuleError(error.kind, error.sentence) from error
            except Exception as error:
                raise RuleError(type(error).__name__, f"it fails with {type(error).__name__}: {error}") from error
            if verdict.skipped:
                raise RuleError("skipped", verdict.events[-1].detail)
            situation = replace(situation, state=verdict.state, previous=verdict.update)
        return verdict
